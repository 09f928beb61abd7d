"""Instructions and chats as samples with a loss on responses."""
