//! Fuzz targets: whatever a peer sends, nothing panics, hangs or grows beyond its bound, and nothing
//! outside the exported directory is touched.
//!
//! Under `cargo test --test fuzz` each runs on random input for a second, or for
//! `BOLERO_RANDOM_TEST_TIME_MS`; a failure prints its input, shrunk, and the seed to repeat it. With
//! coverage to guide it, for hours: `cargo install cargo-bolero`, then
//! `cargo +nightly bolero test --test fuzz TARGET` (libFuzzer; keeps a corpus beside this file).
#![allow(clippy::unwrap_used)] // in a test's helpers, as in the test: to panic is to fail

mod programs;

use berth::rpc::message::{Header, Unfit};
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
    check!().for_each(|record: &[u8]| match Header::decode(record) {
        Ok(header) => assert!(header.args.rest().len() < record.len()),
        Err(Unfit::Refused(xid, _)) => assert_eq!(xid.to_be_bytes(), record[..4]),
        Err(Unfit::NoCall) => {}
    });
}
