//! reranking
