"""The queue's decisions, pure: who starts now, who is stopped for whom, why the others wait."""
