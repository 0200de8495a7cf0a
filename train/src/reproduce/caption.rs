//! The sentences below a table: model, data, template, budget, machine.

use super::plan::Plan;
use super::records::Records;
use super::tables::Column;
use crate::config::{RateSchedule, RunConfig, spelled};
use crate::prepare::LeftOut;

/// Whether a model is the paper's: by its short name, or its repository.
pub(super) fn is_papers_model(name: &str, paper_model: &str) -> bool {
    let names: &[&str] = match paper_model {
        "llama-2-7b" => &["llama-2-7b", "meta-llama/llama-2-7b-hf"],
        "mistral-7b" => &["mistral-7b", "mistralai/mistral-7b-v0.1"],
        _ => &[],
    };
    names.contains(&name.to_lowercase().as_str())
}

/// What made a table, in sentences.
pub(super) fn caption(plan: &Plan, records: &Records) -> Vec<String> {
    let evaluations = plan.evaluations();
    // The base model's evaluation has none of the training's settings.
    let trained = evaluations.iter().filter(|e| !e.members.is_empty());
    let mut asking: Vec<&RunConfig> = trained.map(|e| &e.config).collect();
    if asking.is_empty() {
        asking = evaluations.iter().map(|e| &e.config).collect();
    }
    let Some(first) = asking.first() else {
        return Vec::new();
    };
    let asked = plan.columns.iter().any(Column::is_asked);
    let mut text = vec![budget(&asking, asked)];
    if !plan.columns.iter().all(Column::is_asked) {
        text.push(
            "Each training question was answered before the first step that learned from it, with \
             dropout; the second half of those steps counts. No figure is calibrated afterwards."
                .into(),
        );
    }
    if plan.columns.iter().any(Column::is_held_out) {
        text.push(
            "Choose by the held-out questions, and let the test questions judge: the best of \
             several rows looks better than it is on the questions that it was chosen by."
                .into(),
        );
    }
    let mut seeds: Vec<u64> = evaluations.iter().map(|e| e.config.train.seed).collect();
    seeds.sort_unstable();
    seeds.dedup();
    text.push(format!(
        "Mean and sample standard deviation over {} seed(s): {}. Shares in percent; ECE with {} bins. \
         Best bold, second best underlined.",
        seeds.len(),
        seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", "),
        plan.bins
    ));
    let sets = evaluations.iter().flat_map(|evaluation| {
        let names = evaluation.on.iter();
        names.filter_map(|name| records.set(evaluation, name))
    });
    let mut sources: Vec<&str> = sets
        .flat_map(|set| set.sources.iter().map(String::as_str))
        .collect();
    sources.sort_unstable();
    sources.dedup();
    if !sources.is_empty() {
        text.push(format!("Sources: {}.", sources.join("; ")));
    }
    text.extend(left_out(plan, records));
    let open = evaluations.iter().filter(|e| records.is_open(e)).count();
    if open > 0 {
        text.push(format!(
            "Unfinished: {open} of {} evaluations are open.",
            evaluations.len()
        ));
    }
    let mut known = evaluations.iter().rev();
    if let Some(last) = known.find_map(|e| records.evaluations.get(&e.id)) {
        let machine = &last.origin.environment;
        text.push(format!(
            "uq4ct {} {}, on {} with {} threads.",
            machine.version,
            machine.commit.as_deref().unwrap_or(""),
            machine.device,
            machine.threads
        ));
    }
    if is_papers_model(&first.model.name, plan.table.paper_model) {
        text.push("In brackets: the paper's value.".into());
    } else if !plan.table.paper_model.is_empty() {
        text.push(format!(
            "The paper's table is of {}: its values are not comparable and are left out.",
            plan.table.paper_model
        ));
    }
    text.extend(plan.notes.iter().cloned());
    text
}

/// The test questions of the columns that could not be asked, and so are in no figure.
fn left_out(plan: &Plan, records: &Records) -> Vec<String> {
    let mut found: Vec<LeftOut> = Vec::new();
    let evaluations = plan.evaluations();
    let records = evaluations
        .iter()
        .filter_map(|e| records.evaluations.get(&e.id));
    for one in records.flat_map(|record| &record.origin.provenance.left_out) {
        let tested = plan.columns.iter().any(|c| c.test == one.dataset);
        if tested && one.split == "test" && !found.contains(one) {
            found.push(one.clone());
        }
    }
    LeftOut::sentences(&found)
}

/// Model, template and size of the trainings, and of the tests if there are any. What rows differ
/// in is said of each: `letters or cloze`.
fn budget(configs: &[&RunConfig], asked: bool) -> String {
    let limit = |n: Option<usize>| n.map_or("all".into(), |n: usize| format!("at most {n}"));
    let each = |of: &dyn Fn(&RunConfig) -> String| {
        let mut found: Vec<String> = Vec::new();
        for value in configs.iter().map(|config| of(config)) {
            if !found.contains(&value) {
                found.push(value);
            }
        }
        found.join(" or ")
    };
    let steps = match configs
        .iter()
        .any(|config| config.train.max_steps.is_some())
    {
        true => format!(", {} steps", each(&|config| limit(config.train.max_steps))),
        false => String::new(),
    };
    let tests = match asked {
        true => format!(
            " and {} test",
            each(&|config| limit(config.data.test_limit))
        ),
        false => String::new(),
    };
    format!(
        "Model {}, template {}, scoring {}, {} training{tests} questions, {} epochs of batches \
         of {}{steps}, learning rate {}, {}.",
        each(&|config| config.model.name.clone()),
        each(&|config| spelled(&config.data.template)),
        each(&|config| spelled(&config.data.scoring)),
        each(&|config| limit(config.data.train_limit)),
        each(&|config| config.train.epochs.to_string()),
        each(&|config| config.train.batch_size.to_string()),
        each(&|config| config.train.learning_rate.to_string()),
        each(&|config| match config.train.schedule {
            RateSchedule::Constant => "constant".into(),
            falling => format!("schedule {}", spelled(&falling)),
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_papers_model_is_known_by_its_names() {
        assert!(is_papers_model("llama-2-7b", "llama-2-7b"));
        assert!(is_papers_model("meta-llama/Llama-2-7b-hf", "llama-2-7b"));
        assert!(!is_papers_model(
            "meta-llama/Llama-2-7b-chat-hf",
            "llama-2-7b"
        ));
        assert!(!is_papers_model("smollm2-135m", "llama-2-7b"));
        assert!(!is_papers_model("tiny", ""));
    }
}
