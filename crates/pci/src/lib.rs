//! A software PCI Express fabric: ports, windows, ACS, grouping and routing.
