"""A head aligned with behaviour: what one user did in one sitting lies near to each other, before a CTR model sees it."""
