//! Draws a fabric: the default one, or the one in the file named as the argument.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let fabric = match std::env::args_os().nth(1) {
        Some(file) => sva_pci::Fabric::from_toml(&std::fs::read_to_string(file)?)?,
        None => sva_pci::Fabric::from_toml(sva_pci::DEFAULT_TOML)?,
    };
    print!("{}", sva_pci::render(&fabric));
    Ok(())
}
