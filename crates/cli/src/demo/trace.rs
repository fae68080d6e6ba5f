//! `--trace`: what the IOMMU says of page requests, invalidations and workers, as it happens, on
//! standard error.

use tracing_subscriber::filter::LevelFilter;

/// Prints the events from now on, each with PASID, device and address where it has them.
pub(super) fn install() {
    let events = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(LevelFilter::TRACE)
        .with_ansi(false);
    // Where standard error is closed nobody can be told; a second subscriber there is not.
    let _ = events.log_internal_errors(false).try_init();
}
