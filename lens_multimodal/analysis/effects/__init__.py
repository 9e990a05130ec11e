"""What an intervention did, and whether random interventions of the same size do the same."""
