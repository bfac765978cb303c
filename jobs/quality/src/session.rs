//! The session that rules are evaluated in.

use std::sync::Arc;

use datafusion::{
    error::DataFusionError,
    execution::{memory_pool::FairSpillPool, runtime_env::RuntimeEnvBuilder},
    prelude::{SessionConfig, SessionContext},
};
use lakehouse_shell::memory;

/// Name of the table in it.
pub(crate) const ROWS: &str = "rows";

/// Memory to plan with for each partition, of which the session has half, in bytes.
const PARTITION: usize = 32 << 20;

/// A session whose memory is half of what queries may use: the rows of the stage are in memory beside it. It spills to the temporary folder.
pub(crate) fn session() -> Result<SessionContext, DataFusionError> {
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(FairSpillPool::new(memory::limit() / 2))).build_arc()?;
    let mut config = SessionConfig::new().with_target_partitions(memory::threads(PARTITION));
    config.options_mut().execution.time_zone = Some("+00:00".to_owned());
    Ok(SessionContext::new_with_config_rt(config, runtime))
}

/// A column name as SQL has it.
pub(crate) fn quoted(column: &str) -> String {
    format!("\"{}\"", column.replace('"', "\"\""))
}
