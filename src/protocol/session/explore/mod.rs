//! All that can happen to a connection in a small world, one state after the
//! other.
//!
//! Three callers, each of whom opens an image, wants its manifest and a blob by
//! either way, closes it, and may leave at any moment; and a server that
//! answers, refuses, stalls, breaks the protocol or dies. The state machine is
//! the real [`Session`](super::Session), what is held is the real
//! [`Held`](super::Held); only the callers and the server are made up
//! ([`world`], [`server`]). The actor's `select!` is the choice of the next step: it takes
//! returns in before it sends, so here they reach the session at once.
//!
//! Every step from every state is tried, and every state is held against the
//! rules ([`rule`]). That the rules see what they should is shown by machines
//! that break one each ([`machine`]).

#![expect(clippy::cast_possible_truncation, reason = "the numbers are small")]

mod machine;
mod rule;
mod server;
mod state;
mod world;

use std::collections::HashSet;
use std::io::{Write as _, stderr};

use self::machine::Broken;
use self::rule::{Offence, Rule};
use self::world::{Step, World};

/// How a state was reached first.
#[derive(Debug, Clone, Copy)]
struct Reached {
    from: usize,
    by: Step,
}

#[derive(Debug, Default)]
struct Figures {
    states: usize,
    transitions: usize,
    depth: usize,
}

/// A rule that does not hold, and a shortest way there.
#[derive(Debug)]
struct Found {
    offence: Offence,
    path: Vec<Step>,
}

/// Breadth first, so that what is found is found by a shortest way.
fn explore(start: World) -> Result<Figures, Found> {
    let mut figures = Figures {
        states: 1,
        ..Figures::default()
    };
    let mut seen = HashSet::from([start.signature()]);
    let mut reached: Vec<Option<Reached>> = vec![None];
    let mut layer = vec![(0, start)];
    while !layer.is_empty() {
        let mut next_layer = Vec::new();
        for (from, world) in layer {
            for by in world.steps() {
                let mut next = world.clone();
                figures.transitions += 1;
                if let Err(offence) = next.take(by).and_then(|()| next.check()) {
                    let mut path = path(&reached, from);
                    path.push(by);
                    return Err(Found { offence, path });
                }
                if seen.insert(next.signature()) {
                    next_layer.push((reached.len(), next));
                    reached.push(Some(Reached { from, by }));
                }
            }
        }
        figures.depth += usize::from(!next_layer.is_empty());
        layer = next_layer;
    }
    figures.states = seen.len();
    Ok(figures)
}

fn path(reached: &[Option<Reached>], mut at: usize) -> Vec<Step> {
    let mut path = Vec::new();
    while let Some(Reached { from, by }) = reached[at] {
        path.push(by);
        at = from;
    }
    path.reverse();
    path
}

/// Not captured, unlike what `println!` prints in a test.
fn tell(line: &str) {
    let _ = writeln!(stderr(), "{line}");
}

#[test]
fn no_rule_is_broken_in_any_state_of_a_small_world() {
    let Figures {
        states,
        transitions,
        depth,
    } = explore(World::new(None)).expect("no rule is broken");
    tell(&format!(
        "explored: {states} states, {transitions} transitions, depth {depth}"
    ));
    // So that an exploration that has become empty is noticed.
    assert!(states > 50_000, "only {states} states");
}

#[test]
fn a_machine_that_breaks_a_rule_is_caught() {
    for (broken, rule) in Broken::ALL {
        let found = explore(World::new(Some(broken))).expect_err("something is broken");
        tell(&format!(
            "caught after {} steps: {broken:?}: {}",
            found.path.len(),
            found.offence.what
        ));
        assert_eq!(found.offence.rule, rule, "{broken:?}: {found:#?}");
    }
}

#[test]
fn each_rule_has_a_machine_that_breaks_it() {
    let broken: HashSet<Rule> = Broken::ALL.map(|(_, rule)| rule).into();
    assert_eq!(broken, HashSet::from(Rule::ALL));
}
