//! `sva fabric`, and the reading of fabric files.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sva_pci::{Fabric, FabricSpec, FabricView};

use crate::args::FabricArgs;
use crate::error::Error;

/// What `sva fabric` prints.
///
/// # Errors
/// The file cannot be read, or is no fabric.
pub(crate) fn text(args: &FabricArgs) -> Result<String, Error> {
    if args.example {
        return Ok(sva_pci::DEFAULT_TOML.to_owned());
    }
    let fabric = load(args.config.as_deref())?;
    if args.json { crate::report::object(&FabricView::new(&fabric)) } else { Ok(sva_pci::render(&fabric)) }
}

/// The fabric that the file at `path` describes, or the built-in one.
///
/// # Errors
/// The file cannot be read, or is no fabric.
pub(crate) fn load(path: Option<&Path>) -> Result<Fabric, Error> {
    let text = path.map_or_else(|| Ok(sva_pci::DEFAULT_TOML.to_owned()), read)?;
    let name = path.unwrap_or(Path::new("built-in fabric"));
    let config = |source| Error::Config { path: name.to_path_buf(), source };
    let spec = FabricSpec::from_toml(&text).map_err(config)?;
    Fabric::new(spec).map_err(|source| config(source.into()))
}

/// The text of a file, one byte more than a fabric may have at most: the reader then says that it is too long.
fn read(path: &Path) -> Result<String, Error> {
    let failed = |source| Error::File { path: path.to_path_buf(), source };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(sva_pci::limit::TEXT as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    String::from_utf8(bytes).map_err(|_| failed(io::ErrorKind::InvalidData.into()))
}
