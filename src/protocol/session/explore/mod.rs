//! Model checking of a connection: all states that a small world can reach.
//!
//! A world has a few callers and a server. Each caller opens an image, asks for its manifest and for a blob by one of
//! the two methods, closes the image, and may leave at any moment. The server answers, refuses, stalls, breaks the
//! protocol or dies. A connection ends because a caller finalizes it, because handles and blobs are dropped, or
//! because the deadline comes.
//!
//! The state machines are the real [`Session`](super::Session) and [`Phase`](crate::protocol::Phase), and the grants
//! are the real [`Held`](super::Held). Only the callers and the server are models ([`caller`], [`server`], [`world`]).
//! The choice of the next step stands for the actor's `select!`. The actor takes releases before it sends, so in the
//! model, a release reaches the session at once.
//!
//! Every step from every state is tried, and every state is checked against the rules ([`rule`]). There are also
//! machines with one deliberate mistake each. The tests require that every mistake is found ([`machine`]).

#![expect(clippy::cast_possible_truncation, reason = "the numbers are small")]

mod caller;
mod machine;
mod rule;
mod server;
mod state;
mod steps;
mod world;

use std::collections::HashSet;
use std::collections::hash_map::{Entry, HashMap};
use std::io::{Write as _, stderr};

use self::machine::Broken;
use self::rule::{Offence, Rule};
use self::world::{Scope, Status, Step, World};

/// The state and the step from which a state was first reached.
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

/// A broken rule, and a shortest path to the state that breaks it.
#[derive(Debug)]
struct Found {
    offence: Offence,
    path: Vec<Step>,
}

/// Explores all states from `start`. The search is breadth-first, so that a broken rule is found by a shortest path.
fn explore(start: World) -> Result<Figures, Found> {
    let mut figures = Figures::default();
    let mut seen = HashMap::from([(start.signature(), 0)]);
    let mut reached: Vec<Option<Reached>> = vec![None];
    let mut ends = Ends::default();
    let mut layer = vec![(0, start)];
    while !layer.is_empty() {
        let mut next_layer = Vec::new();
        for (from, world) in layer {
            if world.has_to_end() {
                ends.have_to_end.push(from);
            }
            for by in world.steps() {
                let mut next = world.clone();
                figures.transitions += 1;
                if let Err(offence) = next.take(by).and_then(|()| next.check()) {
                    let mut path = path(&reached, from);
                    path.push(by);
                    return Err(Found { offence, path });
                }
                let to = match seen.entry(next.signature()) {
                    Entry::Occupied(seen) => *seen.get(),
                    Entry::Vacant(new) => {
                        let to = *new.insert(reached.len());
                        reached.push(Some(Reached { from, by }));
                        if next.status == Status::Ended {
                            ends.ended.push(to);
                        }
                        next_layer.push((to, next));
                        to
                    }
                };
                if world.leads_to_the_end(by) {
                    ends.steps.push((from, to));
                }
            }
        }
        figures.depth += usize::from(!next_layer.is_empty());
        layer = next_layer;
    }
    figures.states = reached.len();
    if let Some(state) = ends.never(reached.len()) {
        let offence = Offence {
            rule: Rule::AlwaysEnds,
            what: "the connection has to end, and never does".into(),
        };
        let path = path(&reached, state);
        return Err(Found { offence, path });
    }
    Ok(figures)
}

/// The states that have to lead to the end of the connection, and the steps that lead there.
#[derive(Debug, Default)]
struct Ends {
    have_to_end: Vec<usize>,
    ended: Vec<usize>,
    /// The steps from a state to another one that need no move of a caller.
    steps: Vec<(usize, usize)>,
}

impl Ends {
    /// Returns a state that has to lead to the end and does not. `states` is the number of all states.
    fn never(self, states: usize) -> Option<usize> {
        let mut before: Vec<Vec<usize>> = vec![Vec::new(); states];
        for (from, to) in self.steps {
            before[to].push(from);
        }
        let mut leads = vec![false; states];
        let mut open = self.ended;
        while let Some(state) = open.pop() {
            if !std::mem::replace(&mut leads[state], true) {
                open.append(&mut before[state]);
            }
        }
        self.have_to_end.into_iter().find(|state| !leads[*state])
    }
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

/// Writes a line to stderr. The test harness does not capture it, unlike the output of `println!`.
fn print_line(line: &str) {
    let _ = writeln!(stderr(), "{line}");
}

/// Explores a world. Fails if a rule is broken, or if there are no more than `at_least` states.
fn explore_all(scope: Scope, at_least: usize) {
    let Figures {
        states,
        transitions,
        depth,
    } = explore(World::new(scope, None)).expect("no rule is broken");
    print_line(&format!(
        "explored: {scope:?}: {states} states, {transitions} transitions, depth {depth}"
    ));
    assert!(states > at_least, "only {states} states");
}

#[test]
fn no_rule_is_broken_in_any_state_of_three_callers() {
    explore_all(Scope::Callers, 50_000);
}

#[test]
fn no_rule_is_broken_on_any_way_to_the_end_of_two_callers() {
    explore_all(Scope::End { callers: 2 }, 10_000);
}

#[test]
fn a_machine_that_breaks_a_rule_is_caught() {
    for (broken, rule) in Broken::ALL {
        // A missing end is detected only when all states are explored, so that world is smaller.
        let callers = if rule == Rule::AlwaysEnds { 1 } else { 2 };
        let world = World::new(Scope::End { callers }, Some(broken));
        let found = explore(world).expect_err("something is broken");
        print_line(&format!(
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
