"""Tools for the logs of a data folder: what they hold, trimming, copying. The service need not run."""
