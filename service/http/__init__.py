"""The HTTP interface: what is asked, who may ask, and how it is answered."""
