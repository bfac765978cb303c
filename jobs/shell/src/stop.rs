//! Being told to stop: work that can end early by itself is asked to, and waited for; all other work is dropped where it stands.

use std::{pin::Pin, sync::LazyLock, time::Duration};

use tokio::{sync::watch, time::timeout};

/// How long work that was asked to end is waited for. A pod has 30 s between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(20);

static STOP: LazyLock<watch::Sender<bool>> = LazyLock::new(|| watch::Sender::new(false));

/// For work that ends early by itself: becomes true when the process is told to stop. As long as it is held, [`ended_early`] waits.
pub fn listen() -> watch::Receiver<bool> {
    STOP.subscribe()
}

/// Asks `work` to end and waits for it; none where nothing in it listens, or where it takes longer than 20 s.
pub async fn ended_early<T>(work: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    if STOP.receiver_count() == 0 {
        return None;
    }
    STOP.send_replace(true);
    timeout(GRACE, work).await.ok()
}
