//! Devices to be plugged in.

use std::error::Error;

use sva_core::{Bdf, Capabilities, DeviceSpec, PasidWidth};

/// The `n`th of up to 65,536 devices, each on its own.
pub(crate) fn spec(n: u16, width: PasidWidth) -> Result<DeviceSpec, Box<dyn Error>> {
    let [high, low] = n.to_be_bytes();
    let bdf = Bdf::new(high.into(), low, 0, 0).ok_or("no such device")?;
    Ok(DeviceSpec { bdf, capabilities: Capabilities::sva(width) })
}
