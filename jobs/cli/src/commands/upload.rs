//! `lakehouse upload`: files of this machine into the landing layer, where `files` sources find them.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::Args;
use futures::TryStreamExt;
use lakehouse_shell::open_storage;
use lakehouse_storage::{Layer, LayerStore, Storage};
use sha2::{Digest, Sha256};
use tokio::{fs::File, io::AsyncReadExt};

use crate::{
    CliError,
    place::{Local, StoreArguments, folder},
    print,
};

/// Bytes read at a time.
const CHUNK: usize = 1 << 20;

/// Options of `upload`.
#[derive(Debug, Args)]
pub struct UploadArguments {
    /// Files to upload.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Folder under landing that the files come into, under their own names; default: landing itself.
    #[arg(long, value_name = "FOLDER", default_value = "")]
    to: String,
    /// Replace a file that is there with another content. Bronze keeps what earlier runs took from it.
    #[arg(long)]
    replace: bool,
    /// Folder with the tables. Without it and without --store-endpoint: LAKEHOUSE_LOCAL, or else `.lakehouse`.
    #[arg(long, value_name = "DIR")]
    local: Option<PathBuf>,
    /// Where the landing layer of an S3 store is: a bucket, or bucket/prefix.
    #[arg(long, value_name = "BUCKET", default_value = "landing")]
    landing_bucket: String,
    #[command(flatten)]
    store: StoreArguments,
}

/// Uploads the files, one after the other; each appears whole or not at all. One that is there already with this content is left alone.
///
/// # Errors
/// [`CliError::File`] for a file that cannot be read, [`CliError::Invalid`] for a name that is none or is taken,
/// [`CliError::Storage`] when the store does not take it. Files before it are uploaded.
pub async fn run(arguments: UploadArguments) -> Result<(), CliError> {
    let storage = open(&arguments)?;
    let landing = storage.layer(Layer::Landing)?;
    let mut keys = Vec::with_capacity(arguments.files.len());
    for file in &arguments.files {
        let key = key_of(&arguments.to, file)?;
        if let Some(twice) = arguments.files.iter().zip(&keys).find_map(|(other, known)| (*known == key).then_some(other)) {
            return Err(CliError::Invalid(format!("{} and {} would both be {}", twice.display(), file.display(), landing.uri(&key))));
        }
        keys.push(key);
    }
    for (file, key) in arguments.files.iter().zip(&keys) {
        let line = upload(landing, file, key, arguments.replace).await?;
        print(&format!("{line}\n"))?;
    }
    Ok(())
}

fn open(arguments: &UploadArguments) -> Result<Storage, CliError> {
    if arguments.local.is_none() && arguments.store.store_endpoint.is_some() {
        return Ok(arguments.store.open(&[(Layer::Landing, arguments.landing_bucket.as_str())])?);
    }
    // A folder of the environment does not stand in the way of a store that is named.
    let local = folder(arguments.local.as_deref());
    let local = Local::create(local.as_deref())?;
    Ok(open_storage(&local.location(None))?)
}

fn key_of(folder: &str, file: &Path) -> Result<String, CliError> {
    let name = file.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| CliError::Invalid(format!("{} has no name that an object can have", file.display())))?;
    let folder = folder.trim_matches('/');
    Ok(if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") })
}

async fn upload(landing: &LayerStore, file: &Path, key: &str, replace: bool) -> Result<String, CliError> {
    let uri = landing.uri(key);
    let mut reader = File::open(file).await.map_err(|source| failed(file, source))?;
    let there = landing.head(key).await?;
    if let Some(entry) = &there {
        let size = reader.metadata().await.map_err(|source| failed(file, source))?.len();
        if entry.size == size && stored_digest(landing, key).await? == digest(file).await? {
            return Ok(format!("{uri}: is there already ({size} bytes)"));
        }
        if !replace {
            return Err(CliError::Invalid(format!("{uri} is there with another content: --replace replaces it")));
        }
    }
    let mut writer = landing.writer(key)?;
    loop {
        match chunk(&mut reader).await {
            Ok(chunk) if chunk.is_empty() => break,
            Ok(chunk) => writer.write(chunk).await?,
            Err(source) => {
                writer.abort().await?;
                return Err(failed(file, source));
            }
        }
    }
    let written = writer.finish().await?;
    Ok(format!("{uri}: {} ({} bytes)", if there.is_some() { "replaced" } else { "uploaded" }, written.size))
}

fn failed(file: &Path, source: std::io::Error) -> CliError {
    CliError::File { path: file.to_owned(), source }
}

async fn chunk(reader: &mut File) -> std::io::Result<Bytes> {
    let mut chunk = Vec::with_capacity(CHUNK);
    reader.take(CHUNK as u64).read_to_end(&mut chunk).await?;
    Ok(chunk.into())
}

/// SHA-256 of a file.
async fn digest(file: &Path) -> Result<String, CliError> {
    let mut reader = File::open(file).await.map_err(|source| failed(file, source))?;
    let mut digest = Sha256::new();
    loop {
        let chunk = chunk(&mut reader).await.map_err(|source| failed(file, source))?;
        if chunk.is_empty() {
            return Ok(hex::encode(digest.finalize()));
        }
        digest.update(&chunk);
    }
}

async fn stored_digest(landing: &LayerStore, key: &str) -> Result<String, CliError> {
    let (_, stream) = landing.read(key).await?;
    let digest = stream
        .try_fold(Sha256::new(), |mut digest, chunk| async move {
            digest.update(&chunk);
            Ok(digest)
        })
        .await?;
    Ok(hex::encode(digest.finalize()))
}
