//! Writes `crds/*.yaml` from the types.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Asked at run time: a target folder may be shared by several copies of the sources.
    let folder = std::env::var_os("CARGO_MANIFEST_DIR").ok_or("run it with `cargo run --package gardend-crds`")?;
    let folder = std::path::Path::new(&folder);
    for (name, content) in gardend_crds::files()? {
        std::fs::write(folder.join(name), content)?;
    }
    Ok(())
}
