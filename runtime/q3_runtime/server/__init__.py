"""``q3 serve``: folders behind HTTP, in the words of text-embeddings-inference, OpenAI and Cohere. Needs the extra ``serve``.

* connection: bytes → requests: limits on headers, deadlines for what a client sends and takes
* application: a request → its answer: key, readiness, body, errors in the words of the route
* endpoints: the table of routes, and what each computes; description, token_list: what two of them tell; reply_headers
* schemas, json_body: what a body may hold
* refusals: why a request is not answered, and how each dialect says so
* waiting, scheduling: rows of all requests → batches: who is next, who waits too long, who has left
* models, served_model, reading: folders by name, each with the threads of its tokenizer and its queue
* serving: the process: socket, loading, signals
"""
