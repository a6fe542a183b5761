//! Writes `crds/*.yaml` from the types.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, content) in gardend_crds::files()? {
        std::fs::write(folder.join(name), content)?;
    }
    Ok(())
}
