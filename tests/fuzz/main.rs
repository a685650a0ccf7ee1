//! Fuzz targets: whatever a peer sends, no code panics, hangs or exceeds its bounds, and no file
//! outside the exported directory is touched.
//!
//! Under `cargo test --test fuzz` each target runs on random input for a second, or for
//! `BOLERO_RANDOM_TEST_TIME_MS`; a failure prints the shrunk input and the seed that repeats it.
//! For long runs guided by coverage: `cargo install cargo-bolero`, then
//! `cargo +nightly bolero test --test fuzz TARGET` (libFuzzer; keeps a corpus beside this file).
#![allow(clippy::unwrap_used)] // clippy allows it in tests only, and these are helpers of tests

mod programs;

use berth::rpc::message::{CallHeader, HeaderError};
use berth::rpc::record::{Flow, Records};
use bolero::check;

const RECORD_MAX: usize = 4096;

#[test]
fn record_layer() {
    check!().with_type().for_each(|(stream, piece): &(Vec<u8>, u8)| {
        let mut records = Records::new(RECORD_MAX);
        for piece in stream.chunks(usize::from(*piece) + 1) {
            let each = |record: &[u8]| {
                assert!(record.len() <= RECORD_MAX);
                Flow::Go
            };
            if records.feed(piece, each).is_err() {
                break;
            }
        }
    });
}

#[test]
fn call_header() {
    check!().for_each(|record: &[u8]| match CallHeader::decode(record) {
        Ok(header) => assert!(header.args.rest().len() < record.len()),
        Err(HeaderError::Rejected(xid, _)) => assert_eq!(xid.to_be_bytes(), record[..4]),
        Err(HeaderError::NoCall) => {}
    });
}
