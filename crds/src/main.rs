//! `lakehouse-api` writes the CRD YAML that a test holds against the types.

use std::{error::Error, fs, path::PathBuf, process::ExitCode};

use clap::Parser;
use lakehouse_api::{all_crds, crd_yaml};

/// Writes the CustomResourceDefinitions of lakehouse.rs, one YAML file each.
#[derive(Debug, Parser)]
#[command(name = "lakehouse-api", version)]
struct Arguments {
    /// Where to; made when absent. Default: crds/generated and the operator's chart, in the checkout that this program was built from.
    directory: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match write(arguments.directory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(directory: Option<PathBuf>) -> Result<(), Box<dyn Error>> {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let directories = match directory {
        Some(directory) => vec![directory],
        None => vec![here.join("generated"), here.join("../charts/lakehouse-operator/files/crds")],
    };
    for directory in directories {
        fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        for (file, crd) in all_crds() {
            let path = directory.join(file);
            fs::write(&path, crd_yaml(&crd)?).map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    Ok(())
}
