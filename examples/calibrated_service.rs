//! A service that answers with a confidence that was calibrated on held-out questions: one thread
//! owns the model, and whoever has a question sends it there.
//!
//!     cargo run --example calibrated_service -- RUN        # after: uq4ct train --dataset ..

use std::error::Error;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use burn::tensor::Device;
use data::MultipleChoice;
use train::TrainError;
use train::answering::{Answer, Answerer, Asked};
use train::context::Setup;
use train::posthoc::abstention::Promise;

/// A question, and where its answer goes.
type Job = (Asked, Sender<Result<Answer, TrainError>>);

/// Where questions go.
pub(crate) struct Service {
    jobs: Sender<Job>,
    thread: JoinHandle<Result<(), TrainError>>,
}

impl Service {
    /// Opens a finished run. Tensors stay on the thread that made them, so it opens it itself.
    pub(crate) fn start(run: PathBuf) -> Self {
        let (jobs, asked) = channel::<Job>();
        let thread = std::thread::spawn(move || {
            let mut setup = Setup::new(run, Device::flex());
            setup.resume = true;
            // Sets of choices err once in ten; the more certain half of the questions is answered.
            let half = Promise::Coverage { target: 0.5 };
            let answerer = Answerer::open(&setup, 0.1, Some(half))?;
            for (question, reply) in asked {
                let answer = answerer
                    .answer(&[question])
                    .map(|mut all| all.swap_remove(0));
                // Who has gone needs no answer.
                let _ = reply.send(answer);
            }
            Ok(())
        });
        Self { jobs, thread }
    }

    /// Waits for the last question's answer, and tells what went wrong, such as with the run.
    pub(crate) fn end(self) -> Result<(), Box<dyn Error>> {
        drop(self.jobs);
        let ended = self.thread.join();
        Ok(ended.map_err(|_| "the thread of the model has a fault")??)
    }

    /// Asks and waits.
    pub(crate) fn ask(&self, question: &str, choices: &[&str]) -> Result<Answer, Box<dyn Error>> {
        let choices = choices.iter().map(|text| text.to_string()).collect();
        let (reply, answer) = channel();
        let asked = Asked {
            question: MultipleChoice::new(question, choices, 0),
            // Nobody knows it.
            answer: None,
        };
        asked.question.check()?;
        self.jobs.send((asked, reply))?;
        Ok(answer.recv()??)
    }
}

#[allow(dead_code)]
fn main() -> Result<(), Box<dyn Error>> {
    let run = std::env::args()
        .nth(1)
        .ok_or("which run? Give its directory")?;
    let service = Service::start(run.into());
    let answer = service.ask("Is the sky blue?", &["true", "false"])?;
    println!(
        "{}: confidence {:.2}, {:?}, may be right: {:?}",
        answer.text, answer.confidence, answer.decision, answer.set
    );
    service.end()
}
