//! A folder and an API server on loopback for one test, and the command line tool as a process that knows only these.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use crate::api_server::ApiServer;

/// What every test asks about.
pub const RUN: &str = "pulse-2024-06-22-1";

pub struct Place {
    folder: tempfile::TempDir,
    pub server: ApiServer,
}

impl Place {
    pub fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap(), server: ApiServer::start() };
        std::fs::write(place.path("kubeconfig"), place.server.kubeconfig()).unwrap();
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts `lakehouse ARGUMENTS` without a cluster or a store of the environment.
    pub fn start(&self, arguments: &[&str]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lakehouse"));
        command.args(arguments).env("KUBECONFIG", self.path("kubeconfig")).env("HOME", self.folder.path());
        for variable in ["KUBERNETES_SERVICE_HOST", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "LAKEHOUSE_STORE_ENDPOINT"] {
            command.env_remove(variable);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }
}
