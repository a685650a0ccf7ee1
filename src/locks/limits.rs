//! How much state is kept, and how much there is.

/// A limit for each client and in total.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// For each client.
    pub client: usize,
    /// For all clients.
    pub total: usize,
}

/// Limits of the state that clients make the server keep.
///
/// A total that is reached removes clients whose lease has expired, the longest silent first,
/// before a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockLimits {
    /// Clients.
    pub clients: usize,
    /// Open states and lock states. Those that were revoked count until they are freed.
    pub states: Limit,
    /// Open owners and lock owners, each with a name of up to 1 KiB. A Linux client has one for
    /// each user that opens files, and one for each process that locks a file.
    pub owners: Limit,
    /// Byte-range locks.
    pub ranges: Limit,
}

impl Default for LockLimits {
    /// Enough for large nodes; some 700 MiB in the worst case, with the longest names.
    fn default() -> Self {
        Self {
            clients: 16 << 10,
            states: Limit { client: 256 << 10, total: 1 << 20 },
            owners: Limit { client: 64 << 10, total: 256 << 10 },
            ranges: Limit { client: 256 << 10, total: 1 << 20 },
        }
    }
}

/// How much state there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LockCounts {
    /// Clients.
    pub clients: usize,
    /// Files that are open.
    pub files: usize,
    /// Open states.
    pub opens: usize,
    /// Lock states.
    pub locks: usize,
    /// Byte-range locks.
    pub ranges: usize,
    /// Open owners and lock owners.
    pub owners: usize,
    /// States that were revoked and are not freed.
    pub revoked: usize,
}
