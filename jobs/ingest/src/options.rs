//! What ingest takes from the process around it: clock, environment, patience.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};

/// Gives the present time.
pub type Clock = Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>;
/// Gives the value of an environment variable.
pub type Environment = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Clock, environment and limits. The default is the real process; tests put their own in.
#[derive(Clone)]
pub struct Options {
    /// The present time.
    pub now: Clock,
    /// Value of an environment variable; tokens come from here.
    pub environment: Environment,
    /// Upper bound of the first wait before an HTTP request is sent again; it doubles with each further one, up to 30 s.
    pub backoff: Duration,
    /// Longest wait that a `Retry-After` header can ask for.
    pub max_retry_after: Duration,
    /// Most bytes of one HTTP response, after decompression. It is held in memory while it is checked.
    pub max_response_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            now: Arc::new(Utc::now),
            environment: Arc::new(|name| std::env::var(name).ok()),
            backoff: Duration::from_secs(1),
            max_retry_after: Duration::from_secs(60),
            max_response_bytes: 256 * 1024 * 1024,
        }
    }
}
