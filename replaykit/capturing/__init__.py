"""Where bytes come from: capture files, AF_PACKET rings, kernel filter and sampling."""
