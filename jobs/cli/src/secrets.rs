//! Tokens of connections on a laptop: from a file, from Secrets among the manifests, from the environment.

use std::{collections::BTreeMap, path::Path};

use lakehouse_api::{
    LakehouseSpec,
    manifest::{Object, documents},
};
use lakehouse_contract::env::connection_token;

use crate::{CliError, manifests::Bundle};

/// Environment variables for the sources: those of `--secrets` first, then Secrets of the manifests; what is in neither comes from the process.
#[derive(Clone, Default)]
pub struct Secrets {
    variables: BTreeMap<String, String>,
}

impl Secrets {
    /// Reads `file`: lines `NAME=value`, or YAML with Secrets, which are added to those of the bundle.
    ///
    /// # Errors
    /// [`CliError::File`] or, naming the line, [`CliError::Invalid`]. No message holds a value.
    pub fn read(file: Option<&Path>, bundle: &mut Bundle) -> Result<Self, CliError> {
        let Some(path) = file else { return Ok(Self::default()) };
        let text = std::fs::read_to_string(path).map_err(|source| CliError::File { path: path.to_owned(), source })?;
        let is_yaml = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        if !is_yaml {
            return lines(path, &text).map(|variables| Self { variables });
        }
        let invalid = |message: &str| CliError::Invalid(format!("{}: {message}", path.display()));
        for document in documents(&text).map_err(|_| invalid("it is not valid YAML"))? {
            match document.object() {
                Ok(Object::Secret(secret)) => {
                    bundle.secrets.insert(document.name().to_owned(), *secret);
                }
                _ => return Err(invalid("expected Secrets of v1 only")),
            }
        }
        Ok(Self::default())
    }

    /// Adds the tokens of a Lakehouse's connections, as far as the bundle has their Secrets.
    pub fn add_connections(&mut self, lakehouse: &LakehouseSpec, bundle: &Bundle) {
        for connection in &lakehouse.connections {
            let Some(reference) = &connection.authorization_secret else { continue };
            let Some(secret) = bundle.secrets.get(&reference.name) else { continue };
            let plain = secret.string_data.as_ref().and_then(|data| data.get(&reference.key).cloned());
            let decoded = || secret.data.as_ref()?.get(&reference.key).and_then(|bytes| String::from_utf8(bytes.0.clone()).ok());
            if let Some(value) = plain.or_else(decoded) {
                self.variables.entry(connection_token(&connection.name)).or_insert_with(|| value.trim().to_owned());
            }
        }
    }

    /// All values that came from files, which no log may hold.
    pub fn values(&self) -> impl Iterator<Item = String> + '_ {
        self.variables.values().cloned()
    }

    /// The value of an environment variable.
    pub fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned().or_else(|| std::env::var(name).ok())
    }
}

fn lines(path: &Path, text: &str) -> Result<BTreeMap<String, String>, CliError> {
    let mut variables = BTreeMap::new();
    for (index, line) in text.lines().map(str::trim).enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, value)) = line.strip_prefix("export ").unwrap_or(line).split_once('=') else {
            return Err(CliError::Invalid(format!("{}: line {} is not NAME=value", path.display(), index + 1)));
        };
        let value = value.trim();
        let unquoted = ['"', '\''].into_iter().find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote)).unwrap_or(value);
        variables.insert(name.trim().to_owned(), unquoted.to_owned());
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_variables_is_read_and_a_bad_line_is_named_without_its_content() {
        let variables = lines(Path::new(".env"), "# a comment\nA=1\n\nexport B=\"two words\"\n").unwrap();
        assert_eq!(variables, BTreeMap::from([("A".into(), "1".into()), ("B".into(), "two words".into())]));
        let error = lines(Path::new(".env"), "A=1\nhunter2").unwrap_err().to_string();
        assert!(error.contains("line 2") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn a_secret_of_the_manifests_gives_the_token() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret.yaml");
        std::fs::write(&file, "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {token: c2VzYW1l}\n").unwrap();
        let mut bundle = Bundle::default();
        let mut secrets = Secrets::read(Some(&file), &mut bundle).unwrap();
        let lakehouse = serde_json::json!({
            "objectStore": {"credentialsSecret": "x"}, "catalog": {"sql": {"uriSecret": {"name": "c", "key": "uri"}}},
            "connections": [{"name": "coin-cap", "baseUrl": "http://h", "authorizationSecret": {"name": "s", "key": "token"}}],
        });
        secrets.add_connections(&serde_json::from_value(lakehouse).unwrap(), &bundle);
        assert_eq!(secrets.variable("LAKEHOUSE_CONNECTION_COIN_CAP_TOKEN").as_deref(), Some("sesame"));
    }
}
