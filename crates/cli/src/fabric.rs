//! `sva fabric`, and the reading of fabric files and of dumps that become fabrics.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::Serialize;
use sva_pci::mirror::Note;
use sva_pci::{Fabric, FabricSpec, FabricView, mirror};
use sva_topology::groups::{Grouping, Policy};
use sva_topology::read;

use crate::args::{FabricArgs, Target};
use crate::drawing;
use crate::error::Error;
use crate::terminal::{Role, Terminal};

/// What `sva fabric` prints.
///
/// # Errors
/// The file cannot be read, or is no fabric and no dump of a machine.
pub(crate) fn text(args: &FabricArgs, terminal: Terminal) -> Result<String, Error> {
    if args.example {
        return Ok(sva_pci::DEFAULT_TOML.to_owned());
    }
    let described = match &args.from {
        Some(dump) => mirrored(dump, args.policy)?,
        None => configured(args.config.as_deref())?,
    };
    if args.toml {
        let notes: String = described.notes.iter().map(|note| format!("# {note}\n")).collect();
        return Ok(format!("{notes}{}", described.spec.to_toml()));
    }
    let (notes, fabric) = (described.notes, described.fabric);
    if args.json {
        let notes = args.from.is_some().then(|| notes.iter().map(Note::to_string).collect());
        return crate::report::object(&Object { view: FabricView::new(&fabric), notes });
    }
    let drawn = sva_pci::render_within(&fabric, terminal.columns_or_standard());
    let mut text = drawing::coloured(&drawn, terminal.palette);
    if !notes.is_empty() {
        let head = terminal.palette.paint(Role::Warning, "what differs from the machine");
        let _ = writeln!(text, "\n{head}");
        for note in &notes {
            let _ = writeln!(text, "{}", terminal.wrapped(&format!("  {note}"), "    "));
        }
    }
    Ok(text)
}

/// The JSON object: the fabric, and for one that mirrors a machine what differs.
#[derive(Serialize)]
struct Object {
    #[serde(flatten)]
    view: FabricView,
    #[serde(skip_serializing_if = "Option::is_none")]
    notes: Option<Vec<String>>,
}

/// The fabric that `sva dma` works on, and a sentence where it is not quite what was named.
///
/// # Errors
/// The file cannot be read, or is no fabric and no dump of a machine.
pub(crate) fn of(target: &Target) -> Result<(Fabric, Option<String>), Error> {
    let Some(dump) = &target.from else {
        return Ok((configured(target.config.as_deref())?.fabric, None));
    };
    let described = mirrored(dump, Policy::Linux)?;
    let hint = |count| {
        let things = if count == 1 { "thing" } else { "things" };
        format!(
            "the fabric differs from the machine in {count} {things}; sva fabric --from lists what"
        )
    };
    let count = described.notes.len();
    Ok((described.fabric, (count > 0).then(|| hint(count))))
}

struct Described {
    spec: FabricSpec,
    fabric: Fabric,
    notes: Vec<Note>,
}

/// The fabric that the file at `path` describes, or the built-in one.
fn configured(path: Option<&Path>) -> Result<Described, Error> {
    let text = path.map_or_else(|| Ok(sva_pci::DEFAULT_TOML.to_owned()), config)?;
    let name = path.unwrap_or(Path::new("built-in fabric"));
    let failed = |source| Error::Config { path: name.to_path_buf(), source };
    let spec = FabricSpec::from_toml(&text).map_err(failed)?;
    let fabric = Fabric::new(spec.clone()).map_err(|source| failed(source.into()))?;
    Ok(Described { spec, fabric, notes: Vec::new() })
}

/// The fabric that mirrors the machine of the dump at `path`.
fn mirrored(path: &Path, policy: Policy) -> Result<Described, Error> {
    let name = if path == Path::new("-") { Path::new("standard input") } else { path };
    let machine = read::from_text(&bytes(path, read::LONGEST)?)
        .map_err(|source| Error::Dump { path: name.to_path_buf(), source })?;
    let failed = |source| Error::Mirror { path: name.to_path_buf(), source };
    let mirror = mirror::mirror(&machine, &Grouping::compute(&machine, policy)).map_err(failed)?;
    let fabric = Fabric::new(mirror.spec.clone()).map_err(|source| failed(source.into()))?;
    Ok(Described { spec: mirror.spec, fabric, notes: mirror.notes })
}

fn config(path: &Path) -> Result<String, Error> {
    String::from_utf8(bytes(path, sva_pci::limit::TEXT)?).map_err(|error| Error::NotText {
        path: path.to_path_buf(),
        at: error.utf8_error().valid_up_to(),
    })
}

/// What a file holds, or standard input for `-`; one byte more than `most` at most: the reader then
/// says that it is too long.
///
/// # Errors
/// It cannot be read.
pub(crate) fn bytes(path: &Path, most: usize) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::File { path: path.to_path_buf(), source };
    let input: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path).map_err(failed)?)
    };
    let mut bytes = Vec::new();
    input.take(most as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}
