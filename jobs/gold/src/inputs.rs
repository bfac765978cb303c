//! What the models of a run read, and which commits follow from it.

use std::collections::BTreeMap;

use lakehouse_contract::{CommitToken, Interval, StageSpec, TableRef, digest_json};
use lakehouse_tables::Origin;

use crate::{
    freshness::{Known, Ledgers, version},
    models::Model,
    pins::Pins,
};

/// What the models of a run read, growing with each that is computed.
pub(crate) struct Inputs {
    pins: Pins,
    /// The commits that are in the tables: those that were pinned, and those of this run.
    pub(crate) commits: Ledgers,
    /// Tokens of this run's commits, by the model's table.
    tokens: BTreeMap<TableRef, Vec<CommitToken>>,
}

impl Inputs {
    pub(crate) fn new(pins: Pins) -> Self {
        Self { commits: pins.commits.clone(), pins, tokens: BTreeMap::new() }
    }

    /// The commit token of `model`, which is that of `interval`, and what it is computed from.
    ///
    /// The token's input are the snapshots of the tables that the model reads; of other models of the run their commits, and those that they
    /// have for the intervals before it.
    pub(crate) fn identity(&self, spec: &StageSpec, model: &Model, interval: &Interval) -> (CommitToken, Origin) {
        let origin = self.commits.origin(model, interval);
        let state = |table: &TableRef| match self.tokens.get(table) {
            Some(tokens) => Some(digest_json(&(tokens, origin.inputs.get(&table.to_string())))),
            None => self.pins.snapshot(table).map(str::to_owned),
        };
        let inputs: Vec<(String, Option<String>)> = model.query.tables().iter().map(|table| (table.to_string(), state(table))).collect();
        let digest = &model.definition.definition_digest;
        (CommitToken::new(&spec.pipeline, &model.table, interval, &digest_json(&inputs), digest), origin)
    }

    /// Enters a commit of this run.
    pub(crate) fn enter(&mut self, model: &Model, interval: &Interval, token: CommitToken, origin: Origin) {
        let known = Known { version: version(&origin), overwrote: model.overwrites(), origin: Some(origin) };
        self.commits.enter(&model.table, interval.start, known);
        self.tokens.entry(model.table.clone()).or_default().push(token);
    }
}
