//! Resident memory of this process.

use std::error::Error;

/// Resident bytes now.
pub(crate) fn resident() -> Result<f64, Box<dyn Error>> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: f64 = statm.split_whitespace().nth(1).ok_or("no resident size")?.parse()?;
    Ok(pages * 4096.0)
}

/// The most resident bytes since [`forget_peak`].
pub(crate) fn peak() -> Result<f64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no peak")?;
    let kibibytes: f64 = line.split_whitespace().next().ok_or("no peak")?.parse()?;
    Ok(kibibytes * 1024.0)
}

/// Has the peak begin again from what is resident now (proc(5), `clear_refs`).
pub(crate) fn forget_peak() -> Result<(), Box<dyn Error>> {
    Ok(std::fs::write("/proc/self/clear_refs", "5")?)
}
