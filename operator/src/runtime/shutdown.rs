//! A graceful end: SIGTERM or SIGINT stops new reconciliations, those under way finish.

use anyhow::Context as _;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Whether the process shall end. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shutdown {
    wanted: watch::Receiver<bool>,
}

impl Shutdown {
    /// One that the signals of a pod's end trigger.
    ///
    /// # Errors
    /// When the signals cannot be listened to.
    pub fn on_signal() -> anyhow::Result<Self> {
        let (sender, wanted) = watch::channel(false);
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen to SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to SIGINT")?;
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("stopping: steps under way are finished");
            // Nobody listens any more when the controllers are gone already.
            let _ = sender.send(true);
        });
        Ok(Self { wanted })
    }

    /// Ends when the process shall end.
    pub async fn wanted(mut self) {
        // A sender that is gone without a signal means that the listening task ended with the runtime.
        let _ = self.wanted.wait_for(|wanted| *wanted).await;
    }
}
