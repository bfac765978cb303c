//! How far apart requests are.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

/// Lets requests start one after the other.
pub struct Pace {
    interval: Duration,
    /// When the next one may start.
    next: Mutex<Option<Instant>>,
}

impl Pace {
    /// Requests start at least `interval` apart; the first one at once.
    pub fn new(interval: Duration) -> Self {
        Self { interval, next: Mutex::new(None) }
    }

    /// From the next request on they are at least `interval` apart.
    pub fn slow_down(&mut self, interval: Duration) {
        self.interval = self.interval.max(interval);
        let next = self.next.get_mut().unwrap_or_else(PoisonError::into_inner);
        *next = next.map(|_| Instant::now() + self.interval);
    }

    /// Waits until the next request may start.
    pub async fn turn(&self) {
        let start = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let start = next.map_or(now, |next| next.max(now));
            *next = Some(start + self.interval);
            start
        };
        sleep_until(start).await;
    }
}
