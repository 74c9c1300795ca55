//! Records: to bytes, from bytes, and one value of many.
//!
//!     cargo bench --bench record --features testing
#![allow(clippy::unwrap_used)]
use cloakroom::{Bytes, benching::Records};
use divan::{Bencher, black_box, counter::BytesCount};

const KEYS: [usize; 3] = [3, 40, 400];

fn fields(keys: usize) -> Vec<(String, String)> {
    (0..keys)
        .map(|n| (format!("key {n:03}"), if n % 2 == 0 { format!("{n}") } else { format!("\"value {n}\"") }))
        .collect()
}

fn record(keys: usize) -> (Records, Bytes) {
    let records = Records::of_one_key();
    let bytes = records.encode(&fields(keys));
    (records, bytes)
}

#[divan::bench(args = KEYS)]
fn encode(bencher: Bencher<'_, '_>, keys: usize) {
    let (records, bytes) = record(keys);
    let fields = fields(keys);
    bencher.counter(BytesCount::new(bytes.len())).bench_local(|| records.encode(black_box(&fields)));
}

#[divan::bench(args = KEYS)]
fn decode(bencher: Bencher<'_, '_>, keys: usize) {
    let (records, bytes) = record(keys);
    bencher
        .counter(BytesCount::new(bytes.len()))
        .bench_local(|| assert_eq!(records.decode(black_box(&bytes), None).unwrap().0, keys));
}

#[divan::bench(args = KEYS)]
fn decode_and_read_one(bencher: Bencher<'_, '_>, keys: usize) {
    let (records, bytes) = record(keys);
    bencher.bench_local(|| assert_eq!(records.decode(black_box(&bytes), Some("key 002")).unwrap().1, Some(2)));
}

fn main() {
    divan::Divan::from_args().sample_size(20).sample_count(200).main();
}
