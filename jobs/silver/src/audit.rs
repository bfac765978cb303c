//! The audit of one unit for one table: decode, row expectations, interval, and the keys for deduplication.

use arrow::{
    array::{Array, BooleanArray, RecordBatch},
    compute::and,
    util::display::array_value_to_string,
};
use lakehouse_api::pipeline::{Otherwise, Outside};
use lakehouse_contract::{ExpectationResult, Reason, StageFailure};

use crate::{
    decode::{Raw, decode},
    deduplicate::{Hasher, KeyHashes},
    interval::inside,
    json::value::shorten,
    partners::Partners,
    quarantine::Quarantined,
    rows::Rows,
    schema::TablePlan,
    unit::{RunFacts, Unit},
};

/// Rule of rows outside of the interval.
const OUTSIDE: &str = "outside_interval";

/// What came out of one unit.
#[derive(Debug)]
pub(crate) struct Audited {
    /// Rows to write, in the order of records. Those that do not stay may have nulls in required columns.
    pub(crate) batch: RecordBatch,
    /// Which of them stay, in a table that is deduplicated and so masked in any case; all, where it is absent.
    pub(crate) keep: Option<BooleanArray>,
    /// Hashes of the keys, where the table is deduplicated.
    pub(crate) hashes: Option<KeyHashes>,
    /// Records that go to quarantine.
    pub(crate) quarantined: Vec<Quarantined>,
    pub(crate) tally: Tally,
}

/// What was counted in one or several units.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Records read.
    pub(crate) read: u64,
    /// Rows dropped.
    pub(crate) dropped: u64,
    /// Rows that each row rule looked at, in the rules' order.
    checked: Vec<u64>,
    /// Rows that broke each row rule, in the rules' order.
    broken: Vec<u64>,
    /// First row that broke each row rule with `otherwise: fail`.
    broken_example: Vec<Option<String>>,
    /// Rows outside of the interval where that fails the stage, with the first of them.
    outside: (u64, Option<String>),
}

impl Tally {
    /// Adds what was counted in the next unit.
    pub(crate) fn merge(&mut self, next: Tally) {
        self.read += next.read;
        self.dropped += next.dropped;
        for (sums, more) in [(&mut self.checked, next.checked), (&mut self.broken, next.broken)] {
            sums.resize(sums.len().max(more.len()), 0);
            for (sum, more) in sums.iter_mut().zip(more) {
                *sum += more;
            }
        }
        self.broken_example.resize(self.broken_example.len().max(next.broken_example.len()), None);
        for (first, more) in self.broken_example.iter_mut().zip(next.broken_example) {
            if first.is_none() {
                *first = more;
            }
        }
        self.outside.0 += next.outside.0;
        if self.outside.1.is_none() {
            self.outside.1 = next.outside.1;
        }
    }

    /// The results of the row rules.
    pub(crate) fn row_results(&self, plan: &TablePlan) -> Vec<ExpectationResult> {
        let count = |counts: &[u64], index: usize| counts.get(index).copied().unwrap_or_default();
        let rules = plan.row_rules.iter().enumerate();
        let results = rules.map(|(index, rule)| {
            let example = self.broken_example.get(index).cloned().flatten();
            rule.result(count(&self.checked, index), count(&self.broken, index), example)
        });
        results.collect()
    }

    /// The failure of rows outside of the interval, where the table says `outside: fail`.
    pub(crate) fn outside_failure(&self, plan: &TablePlan) -> Option<StageFailure> {
        let (failed @ 1.., Some(example)) = &self.outside else { return None };
        Some(StageFailure::new(
            Reason::ExpectationFailed,
            format!(
                "{}: {failed} rows lie outside of the interval and write.replaceInterval.outside is fail; the first is {example}",
                plan.table
            ),
        ))
    }
}

/// Decodes and audits one unit.
///
/// # Errors
/// `CastFailed`, `SqlFailed`, or `Internal`.
pub(crate) fn audit(plan: &TablePlan, partners: &Partners, unit: &Unit, facts: RunFacts, hasher: &Hasher) -> Result<Audited, StageFailure> {
    let (mut rows, raw) = decode(plan, unit, facts)?;
    let mut tally = Tally { read: rows.read, ..Tally::default() };
    for rule in &plan.row_rules {
        let mut holds = rule.holds(&plan.table, &rows.batch, partners);
        if holds.is_err() && rows.keep.is_some() {
            // It may be a row that an earlier rule took out.
            rows.settle()?;
            holds = rule.holds(&plan.table, &rows.batch, partners);
        }
        let holds = holds?;
        let staying = rows.staying() as u64;
        tally.checked.push(staying);
        let failed = staying - holding(&rows, &holds)?;
        tally.broken.push(failed);
        tally.broken_example.push(None);
        if failed == 0 {
            continue;
        }
        match rule.otherwise {
            Otherwise::Warn => {}
            Otherwise::Fail => {
                if let Some(example) = tally.broken_example.last_mut() {
                    *example = first_broken(&rows, unit, &holds, &raw);
                }
            }
            Otherwise::Drop => {
                tally.dropped += failed;
                rows.retain(&holds)?;
            }
            Otherwise::Quarantine => {
                let batch = rows.batch.clone();
                let reason = |row: usize| rule.reason(&batch, row);
                set_aside(&mut rows, unit, &holds, &raw, &rule.name, &reason)?;
            }
        }
    }
    if let Some(interval) = &plan.interval {
        let column = rows.batch.column(interval.column).clone();
        let inside = inside(&column, facts);
        let outside = rows.staying() as u64 - holding(&rows, &inside)?;
        match interval.outside {
            _ if outside == 0 => {}
            Outside::Fail => tally.outside = (outside, first_broken(&rows, unit, &inside, &raw)),
            Outside::Drop => {
                tally.dropped += outside;
                rows.retain(&inside)?;
            }
            Outside::Quarantine => {
                let name = &plan.columns[interval.column].name;
                let reason = |row: usize| {
                    let value = if column.is_null(row) { "null".into() } else { array_value_to_string(&column, row).unwrap_or_default() };
                    format!("column {name}: {value} lies outside of the run's interval")
                };
                set_aside(&mut rows, unit, &inside, &raw, OUTSIDE, &reason)?;
            }
        }
    }
    // In the order of records, whichever check found them.
    rows.quarantined.sort_by_key(|row| row.position);
    let hashes = match &plan.deduplicate {
        Some(rule) => Some(hasher.hash(&rows.batch, rows.keep.as_ref(), &rule.key)?),
        None => {
            rows.settle()?;
            None
        }
    };
    Ok(Audited { batch: rows.batch, keep: rows.keep, hashes, quarantined: rows.quarantined, tally })
}

/// How many of the rows that stay so far fulfil a condition.
fn holding(rows: &Rows, holds: &BooleanArray) -> Result<u64, StageFailure> {
    let both = rows.keep.as_ref().map(|keep| and(keep, holds)).transpose();
    let both = both.map_err(|error| StageFailure::new(Reason::Internal, error))?;
    Ok(both.as_ref().unwrap_or(holds).true_count() as u64)
}

/// Moves the rows where `keep` is false to quarantine.
fn set_aside(
    rows: &mut Rows,
    unit: &Unit,
    keep: &BooleanArray,
    raw: &Raw<'_>,
    rule: &str,
    reason: &dyn Fn(usize) -> String,
) -> Result<(), StageFailure> {
    let aside = keep.values().iter().enumerate().filter(|(row, keep)| !keep && rows.stays(*row)).map(|(row, _)| {
        let ordinal = rows.ordinals[row];
        Quarantined {
            object: unit.object.clone(),
            position: unit.first_position + u64::from(ordinal),
            rule: rule.to_owned().into(),
            reason: reason(row),
            record: raw(ordinal),
        }
    });
    let aside: Vec<Quarantined> = aside.collect();
    rows.quarantined.extend(aside);
    rows.retain(keep)
}

/// The first row where `holds` is false, as a message shows it.
fn first_broken(rows: &Rows, unit: &Unit, holds: &BooleanArray, raw: &Raw<'_>) -> Option<String> {
    let (row, _) = holds.values().iter().enumerate().find(|(row, holds)| !holds && rows.stays(*row))?;
    let ordinal = rows.ordinals[row];
    Some(format!("record {} of object {}: {}", unit.first_position + u64::from(ordinal), unit.object, shorten(&raw(ordinal))))
}
