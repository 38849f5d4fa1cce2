"""A language model as judge: rubrics, what it is asked, who is asked, and what its reply is worth."""
