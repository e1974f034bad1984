"""Tables of a config file that other modules need, too; `service.sections` has the rest."""
