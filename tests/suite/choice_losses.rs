//! The losses over choices against torch (`tests/fixtures/make_choice_losses.py`), with gradients.

use burn::prelude::*;
use serde::Deserialize;
use train::loss::choices::{brier, focal, focal_53, label_smoothing, mmce};

use crate::support::{assert_close, devices, fixture, floats};

#[derive(Deserialize)]
struct Reference {
    logits: Vec<Vec<f64>>,
    choices: Vec<usize>,
    answers: Vec<i64>,
    label_smoothing: Loss,
    brier: Loss,
    focal: Loss,
    focal_53: Loss,
    mmce: Loss,
}

/// Values by row, and the gradient of their mean.
#[derive(Deserialize)]
struct Loss {
    values: Vec<f64>,
    gradient: Vec<Vec<f64>>,
}

fn single(values: &[f64]) -> Vec<f32> {
    values.iter().map(|value| *value as f32).collect()
}

#[test]
fn losses_over_choices_equal_torch_in_value_and_gradient() {
    let text = std::fs::read_to_string(fixture("choice_losses.json")).unwrap();
    let reference: Reference = serde_json::from_str(&text).unwrap();
    let (rows, choices) = (reference.logits.len(), reference.logits[0].len());
    for (device_name, device, tolerance) in devices() {
        let device = device.autodiff();
        let absent: Vec<bool> = reference
            .choices
            .iter()
            .flat_map(|there| (0..choices).map(move |choice| choice >= *there))
            .collect();
        let missing =
            Tensor::<2, Bool>::from_data(TensorData::new(absent, [rows, choices]), &device);
        let answers = Tensor::<1, Int>::from_data(reference.answers.as_slice(), &device);
        let flat = single(&reference.logits.concat());
        type Compute<'a> = &'a dyn Fn(Tensor<2>) -> Tensor<1>;
        let smoothed: Compute = &|logits| label_smoothing(logits, answers.clone(), &missing, 0.1);
        let losses: [(&str, &Loss, Compute); 5] = [
            ("label smoothing", &reference.label_smoothing, smoothed),
            ("Brier", &reference.brier, &|x| brier(x, answers.clone())),
            ("focal", &reference.focal, &|x| {
                focal(x, answers.clone(), 2.0)
            }),
            ("focal 53", &reference.focal_53, &|x| {
                focal_53(x, answers.clone())
            }),
            ("MMCE", &reference.mmce, &|x| mmce(x, answers.clone(), None)),
        ];
        for (name, expected, loss) in losses {
            let logits =
                Tensor::<2>::from_data(TensorData::new(flat.clone(), [rows, choices]), &device)
                    .require_grad();
            let masked = logits.clone().mask_fill(missing.clone(), f32::NEG_INFINITY);
            let values = loss(masked);
            let what = format!("{name} on {device_name}");
            assert_close(
                &what,
                &floats(values.clone()),
                &single(&expected.values),
                tolerance,
            );
            let gradient = logits.grad(&values.mean().backward()).unwrap();
            let what = format!("gradient of {what}");
            let expected = single(&expected.gradient.concat());
            assert_close(&what, &floats(gradient), &expected, tolerance);
        }
    }
}

#[test]
fn questions_of_no_weight_leave_the_calibration_error_alone() {
    let device = Device::flex();
    let logits = Tensor::<2>::from_data([[2.0, 0.0], [0.0, 1.0], [3.0, 1.0]], &device);
    let answers = Tensor::<1, Int>::from_data([0, 0, 1], &device);
    let weights = Tensor::<1>::from_data([1.0, 1.0, 0.0], &device);
    let two = mmce(
        logits.clone().narrow(0, 0, 2),
        answers.clone().narrow(0, 0, 2),
        None,
    );
    let three = mmce(logits, answers, Some(weights));
    // Both are sums over the same pairs, divided by 4 and by 9.
    let [two, three] = [two, three].map(|value| value.into_scalar::<f32>());
    assert!((two * 4.0 - three * 9.0).abs() < 1e-6, "{two} {three}");
}
