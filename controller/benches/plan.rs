//! What one decision costs: it is made at every step of every container.

use criterion::{Criterion, criterion_group, criterion_main};
use gardend_controller::plan::{Observed, Place, Step, Wanted, next_step};
use std::hint::black_box;

/// The places that a create goes through.
const CREATE: [Place; 5] = [Place::Nothing, Place::Recorded, Place::Made, Place::Furnished, Place::Connected];

fn plan(criterion: &mut Criterion) {
    let observed = |place| Observed {
        place,
        awaits_image: false,
        confirmed: false,
        stop: None,
        absence_recorded: true,
        networked: true,
        freed: false,
        released: false,
    };
    assert_eq!(next_step(Wanted::Present, &observed(Place::Connected)), Step::Confirm);
    criterion.bench_function("plan: the steps of a create", |bencher| {
        bencher.iter(|| CREATE.map(|place| next_step(black_box(Wanted::Present), black_box(&observed(place)))));
    });
}

criterion_group!(benches, plan);
criterion_main!(benches);
