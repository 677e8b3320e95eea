"""An order ledger on strandline, and how it is tested with power cuts."""
