//! One parsed query: which tables it reads, and its parameters as typed placeholders.

use std::{collections::BTreeSet, ops::ControlFlow};

use datafusion::{
    common::TableReference,
    execution::session_state::SessionState,
    sql::{
        parser::Statement,
        sqlparser::ast::{self, Expr, Value, ValueWithSpan, visit_expressions_mut},
    },
};
use lakehouse_contract::TableRef;

use crate::{NAMESPACES, SqlError};

/// Names of the parameters that a query may use, without the `$`.
pub const PARAMETERS: [&str; 3] = ["start", "end", "readStart"];
const INFORMATION_SCHEMA: &str = "information_schema";
/// Gives a placeholder its type before it is bound, so that functions of it can be planned.
const TYPED_PLACEHOLDER: &str = "arrow_cast(NULL, 'Timestamp(Microsecond, Some(\"UTC\"))')";

/// A parsed query.
#[derive(Clone, Debug)]
pub struct Query {
    statement: Statement,
    tables: BTreeSet<TableRef>,
    parameters: BTreeSet<String>,
    is_select: bool,
    reads_information: bool,
}

impl Query {
    pub(crate) fn parse(state: &SessionState, sql: &str) -> Result<Self, SqlError> {
        let dialect = state.config_options().sql_parser.dialect;
        let mut statement = state.sql_to_statement(sql, &dialect).map_err(SqlError::of)?;
        let is_select = allowed(&statement)?;
        let parameters = bind_types(state, &mut statement)?;
        let mut tables = BTreeSet::new();
        let mut reads_information = false;
        for reference in state.resolve_table_references(&statement).map_err(SqlError::of)? {
            reads_information |= reference.schema() == Some(INFORMATION_SCHEMA);
            if let Some(table) = table_of(state, &reference)? {
                tables.insert(table);
            }
        }
        Ok(Self { statement, tables, parameters, is_select, reads_information })
    }

    /// The tables it reads. Those of `information_schema` are not among them.
    pub fn tables(&self) -> &BTreeSet<TableRef> {
        &self.tables
    }

    /// The parameters it uses, without the `$`.
    pub fn parameters(&self) -> &BTreeSet<String> {
        &self.parameters
    }

    /// Whether it is a SELECT, not an EXPLAIN, SHOW or DESCRIBE.
    pub fn is_select(&self) -> bool {
        self.is_select
    }

    /// Whether it reads `information_schema`, that is, what tables there are.
    pub fn reads_information(&self) -> bool {
        self.reads_information
    }

    pub(crate) fn statement(&self) -> &Statement {
        &self.statement
    }

    /// Fails for the first table that is not in `known`.
    pub(crate) fn check_tables(&self, known: &[TableRef]) -> Result<(), SqlError> {
        match self.tables.iter().find(|table| !known.contains(table)) {
            None => Ok(()),
            Some(missing) => Err(SqlError::UnknownTable { table: missing.clone(), known: known.to_vec() }),
        }
    }
}

/// Whether the statement is a SELECT (true) or one of the other readers (false); anything else is an error.
fn allowed(statement: &Statement) -> Result<bool, SqlError> {
    let word = match statement {
        Statement::Statement(inner) => match inner.as_ref() {
            ast::Statement::Query(_) => return Ok(true),
            ast::Statement::ShowTables { .. } | ast::Statement::ShowColumns { .. } => return Ok(false),
            ast::Statement::ShowFunctions { .. } | ast::Statement::ExplainTable { .. } => return Ok(false),
            ast::Statement::Explain { statement, .. } => {
                return allowed(&Statement::Statement(statement.clone())).map(|_| false);
            }
            other => first_word(&other.to_string()),
        },
        Statement::Explain(explain) => return allowed(&explain.statement).map(|_| false),
        other => first_word(&other.to_string()),
    };
    Err(SqlError::Invalid(format!("{word} is not allowed: only a query (SELECT) that reads tables is")))
}

fn first_word(text: &str) -> String {
    text.split_whitespace().next().unwrap_or_default().to_ascii_uppercase()
}

/// Replaces every `$name` by a placeholder of type timestamptz; answers their names.
fn bind_types(state: &SessionState, statement: &mut Statement) -> Result<BTreeSet<String>, SqlError> {
    let dialect = state.config_options().sql_parser.dialect;
    let typed = state.sql_to_expr(TYPED_PLACEHOLDER, &dialect).map_err(SqlError::of)?;
    let mut names = BTreeSet::new();
    let mut visit = |inner: &mut ast::Statement| {
        visit_expressions_mut(inner, |expression| {
            if let Expr::Value(ValueWithSpan { value: Value::Placeholder(name), .. }) = expression {
                let known = name.strip_prefix('$').filter(|name| PARAMETERS.contains(name));
                let Some(known) = known else { return ControlFlow::Break(name.clone()) };
                names.insert(known.to_owned());
                let placeholder = expression.clone();
                *expression = typed.clone();
                replace_null(expression, placeholder);
            }
            ControlFlow::Continue(())
        })
    };
    let mut target = &mut *statement;
    while let Statement::Explain(explain) = target {
        target = &mut explain.statement;
    }
    let unknown = match target {
        Statement::Statement(inner) => visit(inner),
        _ => ControlFlow::Continue(()),
    };
    match unknown {
        ControlFlow::Continue(()) => Ok(names),
        ControlFlow::Break(name) => {
            let known = PARAMETERS.map(|known| format!("${known}")).join(", ");
            Err(SqlError::Invalid(format!("`{name}` is not a parameter: there are {known}")))
        }
    }
}

/// Puts `placeholder` in the place of the NULL in the first argument of a call.
fn replace_null(call: &mut Expr, placeholder: Expr) {
    if let Expr::Function(function) = call
        && let ast::FunctionArguments::List(list) = &mut function.args
        && let Some(ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(first))) = list.args.first_mut()
    {
        *first = placeholder;
    }
}

/// The table that a reference means; none for functions such as `generate_series` and for the information schema.
fn table_of(state: &SessionState, reference: &TableReference) -> Result<Option<TableRef>, SqlError> {
    let (schema, name) = match reference {
        TableReference::Partial { schema, table } => (schema.as_ref(), table.as_ref()),
        TableReference::Bare { table } if state.table_functions().contains_key(table.as_ref()) => return Ok(None),
        TableReference::Bare { .. } | TableReference::Full { .. } => ("", ""),
    };
    if schema == INFORMATION_SCHEMA {
        return Ok(None);
    }
    if NAMESPACES.contains(&schema) {
        return Ok(Some(TableRef::new(schema, name)));
    }
    let shown = reference.to_string();
    Err(SqlError::Invalid(format!("table {shown} does not exist: write silver.NAME, gold.NAME, quarantine.NAME or quality.NAME")))
}
