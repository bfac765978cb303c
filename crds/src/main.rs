//! Writes the CRD YAML under `crds/generated` and into the operator's chart, or only into the directory given as first argument.

use std::{error::Error, fs, path::PathBuf};

use lakehouse_api::{all_crds, crd_yaml};

fn main() -> Result<(), Box<dyn Error>> {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let directories = match std::env::args_os().nth(1) {
        Some(directory) => vec![PathBuf::from(directory)],
        None => vec![here.join("generated"), here.join("../charts/lakehouse-operator/files/crds")],
    };
    for directory in directories {
        fs::create_dir_all(&directory)?;
        for (file, crd) in all_crds() {
            fs::write(directory.join(file), crd_yaml(&crd)?)?;
        }
    }
    Ok(())
}
