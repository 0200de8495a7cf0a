//! Every table on its default data without a limit: planned, and every prompt rendered and encoded.

use std::collections::HashSet;

use data::source::Finder;
use train::RunConfig;
use train::config::ConfigLayers;
use train::prepare::{LeftOut, Prepared, prepare, prepare_test};
use train::registry;
use train::reproduce::{Options, Plan, TABLES};

/// Needs the real datasets and SmolLM2's tokenizer; without them the test says that it was skipped.
#[test]
fn every_table_can_ask_all_of_its_questions() {
    if std::env::var_os("UQ4CT_DATA").is_none() {
        eprintln!("SKIPPED: UQ4CT_DATA is not set");
        return;
    }
    let finder = Finder {
        offline: true,
        ..Finder::from_env()
    };
    let mut given = ConfigLayers::default();
    given.set("model.name=smollm2-135m").unwrap();
    let mut seen = HashSet::new();
    let (mut asked, mut left_out) = (0, Vec::new());
    for table in TABLES {
        let options = Options {
            table,
            seeds: 1,
            methods: vec![],
            on: vec![],
            given: given.clone(),
            root: Default::default(),
        };
        let plan = match Plan::new(&options, Some(&finder)) {
            Ok(plan) => plan,
            Err(error) => {
                eprintln!("SKIPPED: {}: {error}", table.name);
                continue;
            }
        };
        for evaluation in plan.evaluations() {
            let config = evaluation.config;
            let mut look = |config: &RunConfig, which: &str, read: Read| {
                let wordings = registry::build(config).unwrap().perturbations();
                let RunConfig {
                    data, objective, ..
                } = config;
                let loss = objective.cross_entropy;
                if !seen.insert(format!("{which} {wordings} {loss:?} {data:?}")) {
                    return;
                }
                let name = &data.dataset;
                let prepared = read(config, &finder)
                    .unwrap_or_else(|e| panic!("{} on {name}: {e}", table.name));
                let splits = &prepared.splits;
                let test = splits.test.iter().map(|q| &q.id);
                assert!(test.eq(prepared.test.iter().map(|q| &q.id)));
                prepared.views(&splits.test, wordings, 1).unwrap();
                asked += prepared.train.len() + prepared.held_out.len() + prepared.test.len();
                left_out.extend(prepared.left_out);
            };
            look(&config, "all", prepare);
            for name in evaluation.on.iter().filter(|n| **n != config.data.dataset) {
                look(&config.on(name), "test", prepare_test);
            }
        }
    }
    LeftOut::sentences(&left_out)
        .iter()
        .for_each(|sentence| eprintln!("{sentence}"));
    eprintln!("{asked} prompts, {} left out", left_out.len());
    assert!(
        left_out.len() * 1000 <= asked,
        "{} of {asked}",
        left_out.len()
    );
}

type Read = fn(&RunConfig, &Finder) -> Result<Prepared, train::TrainError>;
