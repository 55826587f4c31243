"""The tables of a report: one form for the page, the Markdown file and the CSV files."""
