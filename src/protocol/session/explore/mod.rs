//! All that can happen to a connection in a small world, one state after the
//! other.
//!
//! A few callers, each of whom opens an image, wants its manifest and a blob by
//! either way, closes it, and may leave at any moment; a server that answers,
//! refuses, stalls, breaks the protocol or dies; and the ways to the end:
//! somebody finalizes, handles and blobs are dropped, patience runs out. The
//! state machines are the real [`Session`](super::Session) and
//! [`Phase`](crate::protocol::Phase), what is held is the real
//! [`Held`](super::Held); only the callers and the server are made up
//! ([`caller`], [`server`], [`world`]). The actor's `select!` is the choice of the next step: it takes
//! returns in before it sends, so here they reach the session at once.
//!
//! Every step from every state is tried, and every state is held against the
//! rules ([`rule`]). That the rules see what they should is shown by machines
//! that break one each ([`machine`]).

#![expect(clippy::cast_possible_truncation, reason = "the numbers are small")]

mod caller;
mod machine;
mod rule;
mod server;
mod state;
mod world;

use std::collections::HashSet;
use std::collections::hash_map::{Entry, HashMap};
use std::io::{Write as _, stderr};

use self::machine::Broken;
use self::rule::{Offence, Rule};
use self::world::{Scope, Status, Step, World};

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

/// Which states have to lead to the end of the connection, and which do.
#[derive(Debug, Default)]
struct Ends {
    have_to_end: Vec<usize>,
    ended: Vec<usize>,
    /// From a state to another one, without any move of a caller.
    steps: Vec<(usize, usize)>,
}

impl Ends {
    /// A state, of so many, that has to lead to the end and does not.
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

/// Not captured, unlike what `println!` prints in a test.
fn tell(line: &str) {
    let _ = writeln!(stderr(), "{line}");
}

/// Fails if a rule is broken, or if the exploration has become empty.
fn explore_all(scope: Scope, at_least: usize) {
    let Figures {
        states,
        transitions,
        depth,
    } = explore(World::new(scope, None)).expect("no rule is broken");
    tell(&format!(
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
        // That an end is never reached is seen only when all is explored.
        let callers = if rule == Rule::AlwaysEnds { 1 } else { 2 };
        let world = World::new(Scope::End { callers }, Some(broken));
        let found = explore(world).expect_err("something is broken");
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
