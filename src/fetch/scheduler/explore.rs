//! Explores every state of small worlds with the real scheduler. A world has a few images, a few units, and a
//! registry and proxies that fail a few times, in every way and order.
//!
//! In each state, no blob and no config is given to two units, there are no more units than allowed, and a registry
//! that refuses is asked rarely. From each state, the world also comes to its end: if nothing fails any more, and in
//! one of the 21 courses in which every call of one kind fails in one way from then on. At the end, each image was
//! fetched once, or has failed once. There are about 200,000 states altogether.

mod world;

use std::collections::HashSet;
use std::time::Instant;

use self::world::{Course, FAILINGS, Kind, Setting, Step, World};
use super::host::Login;

/// The courses in which something fails.
fn failing_courses() -> Vec<Course> {
    let kinds = [Kind::Open, Kind::Config, Kind::Blob];
    let of_kind = |kind| FAILINGS.map(|failing| Course::Fails(kind, failing));
    kinds.into_iter().flat_map(of_kind).collect()
}

/// Explores all states in which time passes at most `most_ticks` times. Returns their number.
fn explore(setting: Setting, most_ticks: u32) -> usize {
    let begun = Instant::now();
    let mut first = World::new(setting, begun);
    first.settle(setting, begun);
    let mut known = HashSet::from([first.key()]);
    let mut waiting = vec![first];
    let courses = failing_courses();
    let mut turns = courses.iter().cycle();
    let mut ending = HashSet::new();
    let mut most_ready = 0;
    while let Some(world) = waiting.pop() {
        let ready = world.proxies.values().filter(|proxy| !proxy.is_starting);
        most_ready = most_ready.max(ready.count());
        if world.has_ended(setting) {
            continue;
        }
        world.follow(Course::AllSucceeds, &mut ending, (setting, begun));
        // Each course starts from one in 21 of the states.
        let course = *turns.next().expect("a cycle");
        world.follow(course, &mut ending, (setting, begun));
        for step in world.steps() {
            if matches!(step, Step::TimePasses) && world.ticks == most_ticks {
                continue;
            }
            let mut next = world.clone();
            next.take(step, setting, begun);
            if known.insert(next.key()) {
                waiting.push(next);
            }
        }
    }
    // The number can be higher, because retired units that are still draining are counted, too.
    assert!(
        most_ready >= setting.units,
        "at most {most_ready} units are ready at a time"
    );
    known.len()
}

#[test]
fn two_images_of_one_repository_whatever_fails() {
    let setting = Setting {
        images: &[(0, "one", &[1, 2]), (0, "one", &[2])],
        login: Login::No,
        units: 2,
        failures: 2,
        quiets: 0,
    };
    let states = explore(setting, 1);
    assert!(states > 40_000, "{states}");
}

#[test]
fn two_images_of_two_repositories_with_a_password() {
    let setting = Setting {
        images: &[(0, "one", &[1]), (0, "other", &[1, 2])],
        login: Login::Unconfirmed,
        units: 2,
        failures: 1,
        quiets: 0,
    };
    let states = explore(setting, 2);
    assert!(states > 10_000, "{states}");
}

#[test]
fn one_image_with_three_failures() {
    let setting = Setting {
        images: &[(0, "one", &[1, 2])],
        login: Login::No,
        units: 2,
        failures: 3,
        quiets: 0,
    };
    let states = explore(setting, 1);
    assert!(states > 30_000, "{states}");
}

#[test]
fn units_whose_blobs_fall_quiet() {
    let setting = Setting {
        images: &[(0, "one", &[1, 2])],
        login: Login::No,
        units: 2,
        failures: 1,
        quiets: 1,
    };
    let states = explore(setting, 1);
    assert!(states > 5_000, "{states}");
}

#[test]
fn three_units() {
    let setting = Setting {
        images: &[(0, "one", &[1, 2])],
        login: Login::No,
        units: 3,
        failures: 1,
        quiets: 0,
    };
    let states = explore(setting, 2);
    assert!(states > 10_000, "{states}");
}

/// Requests for images of several platforms need several kinds of proxies.
#[test]
fn two_kinds_of_images_and_one_unit() {
    let setting = Setting {
        images: &[(0, "one", &[1]), (1, "one", &[1, 2])],
        login: Login::No,
        units: 1,
        failures: 3,
        quiets: 0,
    };
    let states = explore(setting, 2);
    assert!(states > 10_000, "{states}");
}

#[test]
fn two_kinds_of_images_and_two_units() {
    let setting = Setting {
        images: &[(0, "one", &[1]), (1, "one", &[1, 2])],
        login: Login::No,
        units: 2,
        failures: 2,
        quiets: 0,
    };
    let states = explore(setting, 1);
    assert!(states > 20_000, "{states}");
}

#[test]
fn two_kinds_of_images_in_two_repositories_and_one_unit() {
    let setting = Setting {
        images: &[(0, "one", &[1, 2]), (1, "other", &[3])],
        login: Login::No,
        units: 1,
        failures: 3,
        quiets: 0,
    };
    let states = explore(setting, 2);
    assert!(states > 10_000, "{states}");
}
