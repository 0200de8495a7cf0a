//! The Hub's nested parquet; the fixtures are made by `tests/fixtures/make_parquet.py`.

use data::dataset::custom::Custom;
use data::dataset::{find, parse_all};
use data::rows;
use proptest::prelude::*;
use serde_json::json;

use crate::support::fixture;

#[test]
fn nested_parquet_of_arc_and_openbookqa_is_read() {
    for (dataset, file) in [("arc-easy", "arc"), ("openbookqa", "openbookqa")] {
        let path = fixture("parquet").join(format!("{file}.parquet"));
        let found = parse_all(
            &*find(dataset, &Custom::default()).unwrap(),
            &path,
            rows::read(&path, &[]).unwrap(),
        )
        .unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].choices, ["ice", "stone", "steel", "sand"]);
        assert_eq!((found[0].answer, found[1].answer), (0, 1));
        assert_eq!(found[1].question, "What dissolves in water?");
    }
}

/// pandas writes nanoseconds by default; the parquet crate reads them as numbers.
#[test]
fn times_in_nanoseconds_are_read_as_times_at_every_depth() {
    let rows = rows::read(&fixture("parquet/times.parquet"), &[]).unwrap();
    let row = &rows[0].1;
    let at = "2023-11-14 22:13:20.123456 +00:00";
    assert_eq!(row["at"], at);
    assert_eq!(row["list"], json!([at]));
    assert_eq!(
        row["inside"],
        json!({"at": at, "n": 1_700_000_000_123_456_789_i64})
    );
    assert_eq!(row["map"], json!({"a": at}));
    assert_eq!(row["clock"], "01:00:00.000000");
    assert_eq!(row["count"], 1_700_000_000_123_456_789_i64);
}

#[test]
fn what_compresses_in_ways_that_are_not_read_is_named_with_a_remedy() {
    for codec in ["brotli", "lz4"] {
        let path = fixture("parquet").join(format!("{codec}.parquet"));
        let error = rows::read(&path, &[]).unwrap_err().to_string();
        for part in [codec, "question", "zstd"] {
            assert!(error.contains(part), "{error}");
        }
    }
}

proptest! {
    // A fixed seed: a length that a change blows up may abort in the allocator, which no reader of
    // ours can catch.
    #![proptest_config(ProptestConfig { cases: 300, rng_seed: prop::test_runner::RngSeed::Fixed(1), ..ProptestConfig::default() })]

    #[test]
    fn changed_or_cut_parquet_never_panics(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..5),
        cut in any::<prop::sample::Index>(),
        shorten in any::<bool>(),
    ) {
        let mut bytes = std::fs::read(fixture("parquet/arc.parquet")).unwrap();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if shorten {
            bytes.truncate(cut.index(bytes.len()));
        }
        let file = tempfile::Builder::new().suffix(".parquet").tempfile().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let _ = rows::read(file.path(), &[]);
    }
}
