//! Whether the API server can be reached. The log gets a line when an outage begins, one from time
//! to time while it lasts, and one when it ends, however many calls fail meanwhile.

use std::time::Duration;

use kube::Error as ApiError;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Interval between two lines during an outage.
const REPORT_INTERVAL: Duration = Duration::from_secs(300);

/// The first pause of a watch that failed; each pause is twice the previous one.
const FIRST_PAUSE: Duration = Duration::from_millis(800);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// After this time without a failure, the pauses begin with the first again.
const CALM: Duration = Duration::from_secs(120);

/// Whether an API server can be reached; shared by the watches and the election.
pub struct ApiReachability {
    /// Its URL, for the log.
    server: String,
    outage: Mutex<Option<Outage>>,
}

/// An outage, while it lasts.
#[derive(Clone, Copy)]
struct Outage {
    since: Instant,
    reported: Instant,
}

/// What is to be logged.
#[derive(PartialEq, Eq, Debug)]
enum OutageReport {
    /// An outage began.
    Began,
    /// The outage has lasted for this time.
    Lasts(Duration),
    /// The outage is over, after this time.
    Ended(Duration),
}

impl ApiReachability {
    /// Returns the state of a server at this URL, which is taken to be reachable.
    pub fn new(server: impl Into<String>) -> Self {
        Self { server: server.into(), outage: Mutex::default() }
    }

    /// Notes that a call failed because of the server.
    pub fn failed(&self, error: &str) {
        let server = &self.server;
        match self.failed_at(Instant::now()) {
            Some(OutageReport::Lasts(time)) => {
                let seconds = time.as_secs();
                tracing::warn!(server, error, seconds, "the API server is still away");
            }
            Some(_) => tracing::warn!(
                server,
                error,
                "the API server of the cluster is away: no claim gets a volume until it answers \
                 again, and volumes are served as before"
            ),
            None => tracing::debug!(server, error, "the API server is away"),
        }
    }

    /// Notes that the server answered.
    pub fn answered(&self) {
        if let Some(OutageReport::Ended(time)) = self.answered_at(Instant::now()) {
            let (server, seconds) = (&self.server, time.as_secs());
            tracing::info!(server, seconds, "the API server answers again");
        }
    }

    fn failed_at(&self, now: Instant) -> Option<OutageReport> {
        let mut outage = self.outage.lock();
        let Some(known) = &mut *outage else {
            *outage = Some(Outage { since: now, reported: now });
            return Some(OutageReport::Began);
        };
        if now - known.reported < REPORT_INTERVAL {
            return None;
        }
        known.reported = now;
        Some(OutageReport::Lasts(now - known.since))
    }

    fn answered_at(&self, now: Instant) -> Option<OutageReport> {
        let outage = self.outage.lock().take()?;
        Some(OutageReport::Ended(now - outage.since))
    }
}

/// The backoff of a watch: the pauses double until the watch has had no failure for a while.
///
/// A watch reports that it begins before it has made a request, and every event resets the backoff
/// of its stream. The backoffs of kube would therefore never get beyond their first pause.
#[derive(Default)]
pub struct WatchBackoff {
    last: Option<(Instant, Duration)>,
}

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let pause = match self.last {
            Some((at, last)) if now - at < CALM => (last * 2).min(LONGEST_PAUSE),
            _ => FIRST_PAUSE,
        };
        self.last = Some((now, pause));
        Some(pause)
    }
}

impl Backoff for WatchBackoff {
    fn reset(&mut self) {}
}

/// Whether a watch failed because the API server is unavailable, and not because it refused.
pub fn is_outage(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => is_server_failure(error),
        watcher::Error::WatchError(_) | watcher::Error::NoResourceVersion => false,
    }
}

/// Whether a call failed because the API server could not be reached or has a fault itself.
pub fn is_server_failure(error: &ApiError) -> bool {
    match error {
        ApiError::Api(status) => status.code >= 500 || status.code == 429,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_logged_when_it_begins_from_time_to_time_and_when_it_ends() {
        let (reach, start) = (ApiReachability::new("https://cluster"), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(reach.answered_at(start), None);
        assert_eq!(reach.failed_at(start), Some(OutageReport::Began));
        for second in 1..300 {
            assert_eq!(reach.failed_at(after(second)), None);
        }
        let time = Duration::from_secs;
        assert_eq!(reach.failed_at(after(301)), Some(OutageReport::Lasts(time(301))));
        assert_eq!(reach.failed_at(after(302)), None);
        assert_eq!(reach.answered_at(after(310)), Some(OutageReport::Ended(time(310))));
        assert_eq!(reach.answered_at(after(311)), None);
        assert_eq!(reach.failed_at(after(312)), Some(OutageReport::Began));
    }

    #[test]
    fn pauses_grow_whatever_events_come_between_two_failures() {
        let mut pauses = WatchBackoff::default();
        assert_eq!(pauses.next(), Some(FIRST_PAUSE));
        for _ in 0..10 {
            pauses.reset();
            pauses.next().unwrap();
        }
        assert_eq!(pauses.next(), Some(LONGEST_PAUSE));
        pauses.last = Instant::now().checked_sub(CALM).map(|at| (at, LONGEST_PAUSE));
        assert_eq!(pauses.next(), Some(FIRST_PAUSE));
    }
}
