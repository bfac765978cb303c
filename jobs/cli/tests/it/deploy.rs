//! Every manifest under deploy/: the samples are valid, the refused ones are refused with the words they promise.

use std::path::{Path, PathBuf};

use lakehouse_cli::{
    check::{check, faults},
    manifests::Bundle,
};

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(folder);
    let mut found: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    found.sort();
    found
}

async fn faults_of(file: &Path) -> Vec<String> {
    let companion = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/lakehouse.yaml");
    let bundle = Bundle::read(&[file.to_owned(), companion]).unwrap();
    faults(&bundle, &check(&bundle).await.verdicts)
}

#[tokio::test]
async fn every_sample_is_valid() {
    let samples = files("");
    for name in ["lakehouse", "pulse", "crypto", "shop", "crypto-history", "sensors", "scrape", "uploads"] {
        assert!(samples.iter().any(|file| file.file_stem().is_some_and(|stem| stem == name)), "{name}");
    }
    for file in samples {
        assert_eq!(faults_of(&file).await, Vec::<String>::new(), "{}", file.display());
    }
}

#[tokio::test]
async fn samples_are_checked_to_the_last_model() {
    for file in files("") {
        let bundle = Bundle::read(std::slice::from_ref(&file)).unwrap();
        for verdict in check(&bundle).await.verdicts {
            assert_eq!(verdict.notes, Vec::<String>::new(), "{}", file.display());
        }
    }
}

#[tokio::test]
async fn every_refused_manifest_is_refused_with_the_words_it_promises() {
    let refused: Vec<PathBuf> = files("refused").into_iter().chain(files("refused/sql")).collect();
    assert!(refused.len() >= 15, "{refused:?}");
    for file in refused {
        let text = std::fs::read_to_string(&file).unwrap();
        let expected = text.lines().next().and_then(|line| line.strip_prefix("# expect: ")).unwrap_or_else(|| panic!("{}", file.display()));
        let found = faults_of(&file).await;
        assert!(found.iter().any(|fault| fault.contains(expected.trim())), "{}: {found:?}", file.display());
        assert!(found.iter().all(|fault| fault.starts_with(&file.display().to_string())), "{found:?}");
    }
}
