//! A bound on the log lines that peers can cause.
//!
//! A line is bounded if its event has a field `peer`, or has the name [`OFTEN`] because the address
//! is not known where it is logged. Its kind is its place in the source. Within a [`WINDOW`], one
//! address may cause [`PER_ADDRESS`] lines of a kind, and all addresses together [`PER_KIND`].
//! Further lines are left out and counted. [`LogLimiter::report`] logs their number: one line for
//! each of the addresses with the most, and one for all others. The levels debug and trace are not
//! bounded, because they are enabled to see every line.
//!
//! For each kind, the limiter keeps at most [`ADDRESSES`] addresses. IPv6 addresses count by their
//! network of 64 bits, because a host can use all addresses of one.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The name of events that peers can cause and that have no address: `warn!(name: OFTEN, ...)`.
pub const OFTEN: &str = "often";

/// The name of the events that report what was left out.
const LEFT_OUT: &str = "left out";

/// Lines of one kind that one address may cause within a window.
const PER_ADDRESS: u32 = 10;

/// Lines of one kind that all addresses together may cause within a window.
const PER_KIND: u32 = 100;

/// Length of the window in which lines are counted together.
const WINDOW: Duration = Duration::from_secs(10);

/// Addresses that are counted separately within a window, for each kind of line.
const ADDRESSES: usize = 256;

/// Addresses that are named when left-out lines are reported, for each kind of line.
const NAMED: usize = 5;

/// Largest number of reports that wait to be logged.
const REPORTS: usize = 64;

/// Characters of a message that are kept for the report.
const MESSAGE_MAX: usize = 80;

/// Bytes of a path or a name that are shown by [`Cut`].
const SHOWN_MAX: usize = 128;

/// Bytes that a peer sent, displayed as text of a bounded length.
pub struct Cut<'a>(pub &'a [u8]);

impl fmt::Display for Cut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.split_at_checked(SHOWN_MAX) {
            Some((shown, rest)) if !rest.is_empty() => {
                write!(f, "{}... ({} bytes)", shown.escape_ascii(), self.0.len())
            }
            _ => write!(f, "{}", self.0.escape_ascii()),
        }
    }
}

/// Decides which lines are logged, and counts those that are not.
#[derive(Debug, Default)]
pub struct LogLimiter(Mutex<LimiterState>);

#[derive(Debug, Default)]
struct LimiterState {
    kinds: HashMap<Identifier, LineKind>,
    reports: Vec<LeftOutReport>,
}

/// The lines of one place in the source in the current window.
#[derive(Debug)]
struct LineKind {
    message: String,
    since: Instant,
    lines: u32,
    addresses: HashMap<Option<IpAddr>, LineCount>,
    /// Lines left out of addresses beyond [`ADDRESSES`].
    others: u64,
}

/// The lines of one address.
#[derive(Clone, Copy, Debug, Default)]
struct LineCount {
    written: u32,
    left_out: u64,
}

/// A report of lines that were left out.
#[derive(Clone, Debug, PartialEq, Eq)]
struct LeftOutReport {
    message: String,
    /// The address that caused them; `None` for several.
    peer: Option<IpAddr>,
    lines: u64,
}

impl LogLimiter {
    /// Logs what was left out in the windows that have ended. Must be called about once a second.
    pub fn report(&self) {
        self.report_at(Instant::now());
    }

    /// Logs what was left out in all windows, also in those that have not ended, before the process
    /// exits.
    pub fn report_all(&self) {
        self.report_at(Instant::now() + WINDOW);
    }

    fn report_at(&self, now: Instant) {
        for LeftOutReport { message, peer, lines } in self.due(now) {
            let peer = peer.map_or_else(|| "others".to_owned(), |peer| peer.to_string());
            tracing::warn!(
                name: LEFT_OUT, left_out = lines, line = message, %peer,
                "lines were left out of the log"
            );
        }
    }

    /// Ends the windows that are over at `now`, and returns the reports to log.
    fn due(&self, now: Instant) -> Vec<LeftOutReport> {
        let mut seen = self.seen();
        let LimiterState { kinds, reports } = &mut *seen;
        for kind in kinds.values_mut().filter(|kind| kind.is_over(now)) {
            kind.begin_window(now, reports);
        }
        std::mem::take(reports)
    }

    /// Whether an event may be logged. Counts it in either case.
    fn admits(&self, event: &Event<'_>) -> bool {
        let metadata = event.metadata();
        if !is_bounded(metadata) {
            return true;
        }
        let mut facts = EventOrigin::default();
        event.record(&mut facts);
        self.admit(metadata.callsite(), facts, Instant::now())
    }

    fn admit(&self, place: Identifier, facts: EventOrigin, now: Instant) -> bool {
        let mut seen = self.seen();
        let LimiterState { kinds, reports } = &mut *seen;
        let kind = kinds.entry(place).or_insert_with(|| LineKind {
            message: facts.message.chars().take(MESSAGE_MAX).collect(),
            since: now,
            lines: 0,
            addresses: HashMap::new(),
            others: 0,
        });
        if kind.is_over(now) {
            kind.begin_window(now, reports);
        }
        kind.admit(facts.peer)
    }

    fn seen(&self) -> MutexGuard<'_, LimiterState> {
        self.0.lock()
    }
}

impl LineKind {
    fn is_over(&self, now: Instant) -> bool {
        now.duration_since(self.since) >= WINDOW
    }

    fn admit(&mut self, peer: Option<IpAddr>) -> bool {
        if self.addresses.len() == ADDRESSES && !self.addresses.contains_key(&peer) {
            self.others += 1;
            return false;
        }
        let count = self.addresses.entry(peer).or_default();
        // Lines without an address have only the bound for all addresses.
        let own = if peer.is_some() { PER_ADDRESS } else { PER_KIND };
        let admitted = count.written < own && self.lines < PER_KIND;
        if admitted {
            count.written += 1;
            self.lines += 1;
        } else {
            count.left_out += 1;
        }
        admitted
    }

    /// Ends the window, adds its reports to `reports`, and begins another window at `now`.
    fn begin_window(&mut self, now: Instant, reports: &mut Vec<LeftOutReport>) {
        self.since = now;
        self.lines = 0;
        let mut left_out: Vec<_> =
            self.addresses.drain().filter(|(_, count)| count.left_out > 0).collect();
        left_out.sort_unstable_by_key(|(_, count)| std::cmp::Reverse(count.left_out));
        let rest = left_out.split_off(left_out.len().min(NAMED));
        let rest = rest.iter().map(|(_, count)| count.left_out).sum::<u64>();
        let others = std::mem::take(&mut self.others) + rest;
        let named = left_out.into_iter().map(|(peer, count)| (peer, count.left_out));
        for (peer, lines) in named.chain((others > 0).then_some((None, others))) {
            if reports.len() < REPORTS {
                reports.push(LeftOutReport { message: self.message.clone(), peer, lines });
            }
        }
    }
}

fn is_bounded(metadata: &Metadata<'_>) -> bool {
    let is_asked_for = *metadata.level() > Level::INFO;
    let is_caused = metadata.name() == OFTEN || metadata.fields().field("peer").is_some();
    !is_asked_for && is_caused && metadata.name() != LEFT_OUT
}

/// The fields of an event that identify the peer that caused it, and the line.
#[derive(Debug, Default)]
struct EventOrigin {
    peer: Option<IpAddr>,
    message: String,
}

impl Visit for EventOrigin {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "peer" => self.peer = address(&format!("{value:?}")),
            "message" => self.message = format!("{value:?}"),
            _ => {}
        }
    }
}

/// Parses the field `peer`, and returns the address by which it counts.
fn address(text: &str) -> Option<IpAddr> {
    let socket = text.parse().map(|address: SocketAddr| address.ip());
    Some(network(socket.or_else(|_| text.parse()).ok()?))
}

/// Returns the address by which limits per peer count: an IPv4 address, or the network of 64 bits
/// of an IPv6 address, because a host can use all addresses of one.
pub const fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & (!0 << 64))),
    }
}

/// A format of the log that writes only the lines that a limiter admits.
pub struct BoundedFormat<F> {
    format: F,
    limiter: Arc<LogLimiter>,
}

impl<F> BoundedFormat<F> {
    /// Wraps a format.
    pub const fn new(format: F, limiter: Arc<LogLimiter>) -> Self {
        Self { format, limiter }
    }
}

impl<S, N, F> FormatEvent<S, N> for BoundedFormat<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if self.limiter.admits(event) {
            self.format.format_event(context, writer, event)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io;

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    /// The log of a test.
    #[derive(Clone, Default)]
    struct TestLog(Arc<Mutex<Vec<u8>>>);

    impl io::Write for TestLog {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for TestLog {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    /// Returns the lines that are logged while `work` runs; `work` gets the limiter.
    pub fn written(work: impl FnOnce(&LogLimiter)) -> Vec<String> {
        let (log, limiter) = (TestLog::default(), Arc::new(LogLimiter::default()));
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::DEBUG)
            .with_writer(log.clone())
            .with_ansi(false)
            .map_event_format(|format| BoundedFormat::new(format, Arc::clone(&limiter)))
            .finish();
        tracing::subscriber::with_default(subscriber, || work(&limiter));
        let text = String::from_utf8(log.0.lock().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn refused(peer: SocketAddr) {
        tracing::info!(%peer, "refused");
    }

    /// Counts the lines that contain `what`.
    pub fn count(lines: &[String], what: &str) -> usize {
        lines.iter().filter(|line| line.contains(what)).count()
    }

    fn later() -> Instant {
        Instant::now() + WINDOW
    }

    #[test]
    fn each_address_has_its_own_bound_for_each_kind_of_line() {
        let mut due = Vec::new();
        let lines = written(|limiter| {
            for n in 0..1000 {
                refused(SocketAddr::from(([10, 0, 0, 1], n))); // the port does not count
            }
            refused("10.0.0.2:1".parse().unwrap());
            tracing::warn!(peer = %"10.0.0.1:1", "another kind");
            due = limiter.due(later());
        });
        assert_eq!(count(&lines, "peer=10.0.0.1:"), 11, "{lines:?}");
        assert_eq!(count(&lines, "peer=10.0.0.2:"), 1);
        assert_eq!(count(&lines, "another kind"), 1);
        let peer = Some(IpAddr::from([10, 0, 0, 1]));
        assert_eq!(due, [LeftOutReport { message: "refused".into(), peer, lines: 990 }]);
    }

    #[test]
    fn left_out_lines_are_reported_once_and_the_next_window_is_open() {
        let at = |text: &str| EventOrigin { peer: address(text), message: "m".into() };
        let place = || Identifier(&CALLSITE);
        let (limiter, start) = (LogLimiter::default(), Instant::now());
        let admitted =
            |now| (0..30).filter(|_| limiter.admit(place(), at("10.0.0.1"), now)).count();
        assert_eq!(admitted(start), 10);
        assert_eq!(limiter.due(start), [], "the window is not over");
        assert_eq!(admitted(start + WINDOW), 10, "what the first one left out is not lost");
        assert_eq!(limiter.due(start + WINDOW)[0].lines, 20);
        assert_eq!(limiter.due(start + 2 * WINDOW)[0].lines, 20);
        assert_eq!(limiter.due(start + 3 * WINDOW), []);
    }

    #[test]
    fn lines_and_memory_are_bounded_for_many_addresses() {
        let place = || Identifier(&CALLSITE);
        let (limiter, now) = (LogLimiter::default(), Instant::now());
        let mut admitted = 0;
        for n in 0..100_000_u32 {
            let facts =
                EventOrigin { peer: Some(IpAddr::from(n.to_be_bytes())), message: "m".into() };
            admitted += u32::from(limiter.admit(place(), facts, now));
        }
        assert_eq!(admitted, PER_KIND);
        assert_eq!(
            limiter.seen().kinds.values().map(|kind| kind.addresses.len()).sum::<usize>(),
            256
        );
        let due = limiter.due(now + WINDOW);
        assert_eq!(due.len(), NAMED + 1);
        assert_eq!(due.iter().map(|report| report.lines).sum::<u64>(), 99_900);
        assert!(limiter.seen().kinds.values().all(|kind| kind.addresses.is_empty()));
        for n in 1..1000 {
            for _ in 0..20 {
                limiter.admit(place(), EventOrigin::default(), now + WINDOW * n);
            }
        }
        assert!(limiter.seen().reports.len() <= REPORTS);
    }

    #[test]
    fn only_what_peers_cause_is_bounded() {
        let lines = written(|limiter| {
            for n in 0..500 {
                tracing::info!(n, "without a peer");
                tracing::debug!(peer = %"10.0.0.1:1", "for debugging");
                tracing::warn!(name: OFTEN, "of any peer");
            }
            limiter.report_all();
        });
        assert_eq!(count(&lines, "without a peer"), 500);
        assert_eq!(count(&lines, "for debugging"), 500);
        assert_eq!(count(&lines, "of any peer"), 101, "and one that reports the rest");
        assert_eq!(count(&lines, "left_out=400"), 1);
    }

    #[test]
    fn ipv6_addresses_count_by_their_network() {
        let check = |text: &str, expected: &str| {
            assert_eq!(address(text), Some(expected.parse().unwrap()), "{text}");
        };
        check("10.0.0.1:700", "10.0.0.1");
        check("10.0.0.1", "10.0.0.1");
        check("[::ffff:10.0.0.1]:700", "10.0.0.1");
        check("[fd00:1:2:3:4:5:6:7]:700", "fd00:1:2:3::");
        check("fd00:1:2:3:4:5:6:7", "fd00:1:2:3::");
        assert_eq!(address("somebody"), None);
    }

    #[test]
    fn long_bytes_are_cut() {
        assert_eq!(Cut(b"/a\n").to_string(), "/a\\n");
        assert_eq!(Cut(&[b'x'; SHOWN_MAX]).to_string().len(), SHOWN_MAX);
        let cut = Cut(&[1; 1000]).to_string();
        assert!(cut.ends_with("\\x01... (1000 bytes)") && cut.len() < 5 * SHOWN_MAX, "{cut}");
    }

    /// A place in the source that logs.
    struct TestCallsite;

    static CALLSITE: TestCallsite = TestCallsite;

    impl tracing::Callsite for TestCallsite {
        fn set_interest(&self, _: tracing::subscriber::Interest) {}

        fn metadata(&self) -> &Metadata<'_> {
            unreachable!("the limiter does not use it")
        }
    }
}
