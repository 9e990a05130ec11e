"""Everything that draws: notebook HTML, plotly figures, the report, tables in the terminal. Takes values only."""
