//! What holds for every calibration.

use proptest::collection::vec;
use proptest::prelude::*;
use ranking::calibration::{Calibration, Outcome};

fn outcomes() -> impl Strategy<Value = Vec<Outcome>> {
    let score = prop_oneof![-3f64..3.0, (-4i32..4).prop_map(f64::from), Just(-0.0), -1e300..1e300];
    let outcome = (score, any::<bool>(), prop_oneof![Just(1.0), 0.01f64..50.0]);
    vec(outcome.prop_map(|(score, happened, weight)| Outcome { score, happened, weight }), 2..60)
        .prop_filter("both outcomes", |all| {
            all.iter().any(|o| o.happened) && all.iter().any(|o| !o.happened)
        })
}

fn fitted(outcomes: &[Outcome]) -> [Calibration; 2] {
    [Calibration::fit_platt(outcomes), Calibration::fit_isotonic(outcomes)]
        .map(|fitted| fitted.expect("outcomes of both kinds can be calibrated on"))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn probabilities_rise_with_the_score(
        outcomes in outcomes(),
        mut scores in vec(any::<f64>(), 2..40),
    ) {
        scores.extend(outcomes.iter().map(|outcome| outcome.score));
        scores.retain(|score| !score.is_nan());
        scores.extend([f64::NEG_INFINITY, f64::INFINITY]);
        scores.sort_by(f64::total_cmp);
        for calibration in fitted(&outcomes) {
            let p: Vec<f64> = scores.iter().map(|&score| calibration.apply(score)).collect();
            prop_assert!(p.iter().all(|p| (0.0..=1.0).contains(p)), "{calibration:?} {p:?}");
            prop_assert!(p.is_sorted(), "{calibration:?} {scores:?} {p:?}");
            prop_assert_eq!(calibration.apply(f64::NAN), p[0]);
        }
    }

    #[test]
    fn isotonic_keeps_the_mean_and_leaves_no_error_in_its_blocks(outcomes in outcomes()) {
        let isotonic = Calibration::fit_isotonic(&outcomes).unwrap();
        let sum = |value: &dyn Fn(&Outcome) -> f64| -> f64 {
            outcomes.iter().map(|outcome| outcome.weight * value(outcome)).sum()
        };
        let predicted = sum(&|outcome| isotonic.apply(outcome.score));
        let happened = sum(&|outcome| f64::from(u8::from(outcome.happened)));
        prop_assert!((predicted - happened).abs() < 1e-6 * sum(&|_| 1.0));
    }

    #[test]
    fn a_calibration_survives_being_kept(outcomes in outcomes()) {
        for calibration in fitted(&outcomes) {
            let text = serde_json::to_string(&calibration).unwrap();
            let kept: Calibration = serde_json::from_str(&text).unwrap();
            for outcome in &outcomes {
                let change = kept.apply(outcome.score) - calibration.apply(outcome.score);
                prop_assert!(change.abs() < 1e-9);
            }
        }
    }
}
